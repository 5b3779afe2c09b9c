'use strict';

/* The diagram of the system: stations, buffers, learners, and what goes between them. */

const isWide = matchMedia('(min-width: 900px)');
let flow = null;

/* A row per station, in the order of a game; a role's buffers and learner stand in its row. */
function flowRows() {
  const rows = Object.keys(snapshot.stations).map((name) => ({station: name, policy: null, streams: []}));
  for (const policy of Object.keys(snapshot.policies)) {
    const row = rows.find((one) => one.station === policy);
    if (row) row.policy = policy;
    else rows.push({station: null, policy, streams: []});
  }
  for (const [stream, {policy}] of Object.entries(snapshot.streams)) {
    const row = rows.find((one) => one.policy === policy);
    if (row) row.streams.push(stream);
  }
  return rows;
}

function makeNode(kind, name, title, ...children) {
  const state = make('span', 'state');
  const element = make('div', `node ${kind} ${roles.includes(name) ? roleClass(name) : ''}`,
    make('div', 'title', make('h3', '', title), state), ...children);
  element.dataset.part = name;
  return {element, state};
}

function makeGames() {
  const flying = make('b', 'big');
  const pips = make('div', 'pips');
  const facts = make('p', 'facts');
  const node = makeNode('games', '', 'Games', make('p', '', flying, ' in flight'), pips, facts);
  return {...node, update() {
    const {games} = snapshot;
    put(flying, count(games.in_flight));
    put(node.state, snapshot.is_paused ? 'paused' : '');
    drawPips(pips, games.in_flight);
    const lines = [[games.started, 'admitted'], [games.finished, 'finished'],
      [sum(Object.values(games.dropped ?? {})), 'dropped']];
    rebuild(facts, lines, () => lines.map(([value, word]) => make('span', '', make('b', '', count(value)), ` ${word}`)));
  }};
}

function makeStation(name) {
  const isRenderer = snapshot.stations[name].kind === 'renderer';
  const work = make('b', 'big');
  const queue = make('span');
  const busy = makeMeter('busy');
  const waits = makeMeter('share of waiting');
  const node = makeNode('station', name, isRenderer ? name : `${name} servers`,
    make('p', '', work, ' under way', queue), busy.element, waits.element);
  return {...node, update() {
    const station = snapshot.stations[name];
    put(node.state, `${station.units} ${isRenderer ? 'worker' : 'server'}${station.units === 1 ? '' : 's'}`);
    put(work, count(station.outstanding));
    put(queue, station.queued ? `, ${count(station.queued)} queued` : '');
    busy.element.hidden = station.busy === null;
    busy.set(station.busy);
    waits.set(station.wait_share);
    mark(node.element, snapshot.bottleneck.part === name);
  }};
}

function makeBuffer(name) {
  const ready = make('b', 'big');
  const leased = make('span');
  const pips = make('div', 'pips');
  const dropped = makeMeter('dropped');
  const node = makeNode('buffer', name, `${name} groups`,
    make('p', '', ready, ' ready', leased), pips, dropped.element);
  return {...node, update() {
    const stream = snapshot.streams[name];
    const drops = sum(Object.values(stream.dropped));
    const groups = Math.max(drops + stream.trained + stream.ready + stream.leased, 1);
    put(ready, count(stream.ready));
    put(leased, stream.is_open === false ? ', gate closed' : `, ${count(stream.leased)} leased`);
    drawPips(pips, stream.leased, stream.ready);
    dropped.set(drops / groups);
  }};
}

function makeLearner(name) {
  const step = make('b', 'big');
  const total = make('span');
  const fill = make('i');
  const waits = make('p', 'facts');
  const starved = makeMeter('starved');
  const node = makeNode('learner', name, `${name} learner`, make('p', '', step, total),
    make('div', 'track', fill), waits, starved.element);
  return {...node, update() {
    const policy = snapshot.policies[name];
    put(step, count(policy.step));
    put(total, ` of ${count(policy.total_steps)} steps`);
    fill.style.width = `${Math.min(100, 100 * policy.step / Math.max(1, policy.total_steps))}%`;
    const isDone = policy.step >= policy.total_steps;
    put(node.state, isDone ? 'done' : policy.waits_for ? 'waits' : 'trains');
    node.state.dataset.state = node.state.textContent;
    put(waits, isDone ? 'finished' : policy.waits_for ? `for ${policy.waits_for}` : 'a batch is being trained');
    starved.element.hidden = policy.starved === null;
    starved.set(policy.starved);
    mark(node.element, snapshot.bottleneck.part === 'learner');
  }};
}

const mark = (element, isBottleneck) => element.classList.toggle('bottleneck', isBottleneck);

function makeEdge(kind, from, to, read) {
  const line = makeSvg('path', {class: `line ${kind}`, 'marker-end': 'url(#arrow)'});
  const dots = makeSvg('path', {class: `dots ${kind}`});
  const label = makeSvg('text', {class: 'label'});
  return {kind, from, to, elements: [line, dots, label], update() {
    const [text, perSecond] = read();
    put(label, text);
    dots.dataset.speed = !perSecond ? 0 : perSecond < 0.5 ? 1 : perSecond < 3 ? 2 : 3;
  }, place({path, x, y, anchor}) {
    line.setAttribute('d', path);
    dots.setAttribute('d', path);
    label.setAttribute('x', x);
    label.setAttribute('y', y);
    label.setAttribute('text-anchor', anchor);
  }};
}

function buildFlow(rows) {
  const games = makeGames();
  const nodes = [games];
  const edges = [];
  const list = make('div', 'rows');
  const add = (node) => (nodes.push(node), node);
  const rate = (value, unit) => [`${number(value)}${unit && ' '}${unit}/s`, value];
  const passed = [];
  for (const row of rows) {
    const element = make('div', 'row');
    const station = row.station === null ? null : add(makeStation(row.station));
    const stack = make('div', 'stack');
    const learner = row.policy === null ? null : add(makeLearner(row.policy));
    for (const name of row.streams) {
      const buffer = add(makeBuffer(name));
      stack.append(buffer.element);
      if (station) edges.push(makeEdge('groups', station, buffer, () => rate(snapshot.streams[name].submitted_per_s, 'groups')));
      if (learner) edges.push(makeEdge('batches', buffer, learner, () => rate(snapshot.streams[name].trained_per_s, isWide.matches ? 'trained' : '')));
    }
    if (station && learner) {
      const weights = makeEdge('weights', learner, station, () => [`${isWide.matches ? 'weights ' : ''}v${snapshot.policies[row.policy].version}`, 0]);
      edges.push({...weights, row: element});
    }
    element.append(station?.element ?? make('span'), stack, learner?.element ?? make('span'));
    list.append(element);
    if (station) passed.push([row.station, station]);
  }
  passed.forEach(([name, station], index) => {
    const previous = passed[index - 1];
    if (!previous) {
      edges.push(makeEdge('admit', games, station, () => [snapshot.is_paused ? 'paused' : 'admits', snapshot.is_paused ? 0 : snapshot.games_per_min / 60]));
      return;
    }
    const unit = snapshot.stations[previous[0]].kind === 'renderer' ? 'pictures' : 'answers';
    edges.push(makeEdge('pass', previous[1], station, () => rate(snapshot.stations[previous[0]].per_s, unit)));
  });
  if (passed.length) {
    edges.push(makeEdge('finish', passed.at(-1)[1], games, () => [`${number(snapshot.games_per_min)}/min`, snapshot.games_per_min / 60]));
  }
  const svg = makeSvg('svg', {'aria-hidden': 'true'});
  const head = makeSvg('marker', {id: 'arrow', viewBox: '0 0 8 8', refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: 'auto'});
  head.append(makeSvg('path', {d: 'M0 0.5L8 4L0 7.5z'}));
  svg.append(head, ...edges.flatMap((edge) => edge.elements));
  $('flow').replaceChildren(svg, games.element, list);
  return {nodes, edges};
}

/* Lines are drawn between where the boxes came to stand, so that the style sheet alone decides. */
function layFlow() {
  if (!flow) return;
  const origin = $('flow').getBoundingClientRect();
  const box = (element) => {
    const {left, top, width, height} = element.getBoundingClientRect();
    const [x, y] = [left - origin.left, top - origin.top];
    return {left: x, top: y, right: x + width, bottom: y + height, middle: x + width / 2, center: y + height / 2};
  };
  for (const edge of flow.edges) {
    const row = edge.row ? box(edge.row) : null;
    edge.place((isWide.matches ? wideLine : narrowLine)(edge.kind, box(edge.from.element), box(edge.to.element), row));
  }
}

function wideLine(kind, from, to, row) {
  const between = {x: (from.right + to.left) / 2 - 3, anchor: 'middle'};
  if (kind === 'pass') {
    return {path: `M${from.middle} ${from.bottom}V${to.top}`, x: from.middle + 9, y: (from.bottom + to.top) / 2 + 4, anchor: 'start'};
  }
  if (kind === 'weights') {
    const [end, low] = [to.right - 26, row.bottom + 16];
    const path = `M${from.middle} ${from.bottom}V${low - 8}q0 8 -8 8H${end + 8}q-8 0 -8 -8V${to.bottom}`;
    return {path, x: (to.right + from.left) / 2, y: low - 5, anchor: 'middle'};
  }
  if (kind === 'admit') {
    const y = to.top + (to.bottom - to.top) * 0.35;
    return {path: `M${from.right} ${y}H${to.left}`, y: y - 8, ...between};
  }
  if (kind === 'finish') {
    const y = from.top + (from.bottom - from.top) * 0.65;
    return {path: `M${from.left} ${y}H${to.right}`, x: (from.left + to.right) / 2 + 3, y: y - 8, anchor: 'middle'};
  }
  const half = (from.right + to.left) / 2;
  const path = `M${from.right} ${from.center}C${half} ${from.center} ${half} ${to.center} ${to.left} ${to.center}`;
  // At the buffer's end, on the side from which the line does not come.
  const [buffer, other] = kind === 'groups' ? [to, from] : [from, to];
  return {path, y: buffer.center + (buffer.center > other.center + 20 ? 17 : -8), ...between};
}

function narrowLine(kind, from, to) {
  const side = Math.min(from.left, to.left) + 12;
  const down = (x) => ({path: `M${x} ${from.bottom}V${to.top}`, x: x + 8, y: to.top - 10, anchor: 'start'});
  if (kind === 'pass' || kind === 'admit') return down(side);
  if (kind === 'groups') return down(to.middle);
  if (kind === 'weights') return {path: `M${from.middle} ${from.top}V${to.bottom}`, x: from.middle + 8, y: from.top - 9, anchor: 'start'};
  if (kind === 'finish') return {path: '', x: 0, y: -20, anchor: 'start'};
  return {path: `M${from.right} ${from.center}H${to.left}`, x: (from.right + to.left) / 2, y: from.center - 7, anchor: 'middle'};
}

function renderFlow() {
  const rows = flowRows();
  const shape = JSON.stringify([rows, roles]);
  if (!flow || flow.shape !== shape) flow = {...buildFlow(rows), shape};
  for (const part of [...flow.nodes, ...flow.edges]) part.update();
  layFlow();
}
