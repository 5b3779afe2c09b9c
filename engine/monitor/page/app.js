'use strict';

/* The page of a running engine. Whatever comes as JSON may be the words of a model, so it only ever
   becomes text (`make`, `put`); the gallery's fragment alone is HTML, which the server escaped. */

const STALE_MS = 3000;
const GALLERY_MS = 5000;

let heardAt = 0;
let isDue = false;

// ---- top ------------------------------------------------------------------------------------------

function renderHead() {
  const {name, phase, elapsed_s: elapsed, games} = snapshot;
  document.title = `${name} · streamzero`;
  put($('run-name'), name);
  put($('phase'), phase);
  put($('elapsed'), clock(elapsed));
  put($('finished'), `${count(games.finished)} games`);
  $('paused').hidden = !snapshot.is_paused;
}

function renderBottleneck() {
  const {part, sentence, advice} = snapshot.bottleneck;
  const element = $('bottleneck');
  // Its numbers change each second: only another part is worth saying aloud.
  if (element.dataset.part !== part) put($('announce'), sentence);
  element.dataset.part = part;
  put(element, sentence || 'Nothing limits the run, as far as can be told yet.');
  put($('advice'), advice);
  rebuild($('alarms'), snapshot.alarms, () => snapshot.alarms.map((alarm) => {
    const box = make('div', 'alarm', make('p', 'sentence', alarm.sentence),
      alarm.advice ? make('p', 'dim', alarm.advice) : null);
    box.dataset.name = alarm.name;
    return box;
  }));
}

function renderConnection() {
  const age = performance.now() - heardAt;
  const isOpen = source !== null && source.readyState === EventSource.OPEN;
  const state = !isOpen ? 'reconnecting' : age > STALE_MS ? 'stale' : 'live';
  const words = {live: 'live', reconnecting: 'reconnecting…', stale: `${Math.round(age / 1000)} s old`};
  if (!heardAt && state !== 'reconnecting') return;
  $('connection').dataset.state = state;
  document.body.dataset.state = state;
  put($('connection'), words[state]);
}

// ---- numbers in tables and tiles ------------------------------------------------------------------

function renderThroughput() {
  const policies = Object.entries(snapshot.policies);
  const generated = sum(policies.map(([, policy]) => policy.generated_per_s));
  const trained = sum(policies.map(([, policy]) => policy.trained_per_s));
  const mfus = policies.map(([, policy]) => policy.mfu).filter((mfu) => mfu !== null);
  const tiles = [['games per minute', number(snapshot.games_per_min)], ['tokens/s generated', number(generated)],
    ['tokens/s trained on', number(trained)], ['generated per trained', trained ? `${number(generated / trained)}×` : '–']];
  if (mfus.length) tiles.push(['MFU', percent(sum(mfus) / mfus.length)]);
  rebuild($('tiles'), tiles, () => tiles.map(([label, value]) => make('div', 'tile', make('b', 'big', value), make('span', '', label))));
  fillTable($('roles'), ['role', 'generated/s', 'trained/s', 'steps/min', 'version', 'servers busy'],
    policies.map(([name, policy]) => [name, number(policy.generated_per_s), number(policy.trained_per_s),
      number(policy.steps_per_min), `v${policy.version}`,
      percent(snapshot.stations[name]?.busy ?? snapshot.busy[`server/${name}`] ?? null)]));
}

/* From the first to the last tenth of a curve: single batches are noise. */
function trendOf(points) {
  const size = Math.ceil(points.length / 10);
  const mean = (some) => sum(some.map(([, value]) => value)) / some.length;
  return points.length < 4 ? null : mean(points.slice(-size)) - mean(points.slice(0, size));
}

function renderProgress() {
  const rows = Object.entries(snapshot.policies).map(([name, {step, total_steps: total, reward}]) => {
    const change = trendOf(charts.get('reward')?.series.get(name) ?? []);
    return [name, step, total, number(reward), change === null || Math.abs(change) < 0.005 ? null : change];
  });
  rebuild($('progress'), [rows, roles], () => rows.map(([name, step, total, reward, change]) => {
    const fill = make('i');
    fill.style.width = `${Math.min(100, 100 * step / Math.max(1, total))}%`;
    const trend = make('span', change === null ? 'dim' : change > 0 ? 'up' : 'down',
      reward === '–' ? '' : change === null ? 'as at the start' : `${change > 0 ? '▲' : '▼'} ${number(Math.abs(change))} since the start`);
    return make('div', `panel progress ${roleClass(name)}`, make('h3', 'role', name),
      make('p', '', make('span', 'dim', 'reward '), make('b', 'big', reward), ' ', trend),
      make('div', 'track', fill), make('p', 'facts', `step ${count(step)} of ${count(total)}`));
  }));
}

function renderHealth() {
  const streams = Object.entries(snapshot.streams);
  rebuild($('ages'), streams.map(([name, stream]) => [name, stream.ages, stream.age_mean]), () => streams.map(ageChart));
  const reasons = new Map();
  const note = (place, dropped) => Object.entries(dropped ?? {}).forEach(([reason, number]) => {
    const places = reasons.get(reason) ?? reasons.set(reason, new Map()).get(reason);
    places.set(place, number);
  });
  for (const [name, stream] of streams) note(name, stream.dropped);
  note('games', snapshot.games.dropped);
  const places = [...streams.map(([name]) => name), 'games'];
  const rows = [...reasons].map(([reason, found]) => [reason, sum([...found.values()]), found])
    .sort((one, other) => other[1] - one[1])
    .map(([reason, total, found]) => [reason, count(total), ...places.map((place) => (found.has(place) ? count(found.get(place)) : '·'))]);
  fillTable($('drops'), ['reason', 'all', ...places], rows.length ? rows : [['nothing so far']]);
  rebuild($('events'), snapshot.events, () => [...snapshot.events].reverse().map(([time, level, text]) => {
    const item = make('li', '', make('time', 'dim', new Date(time * 1000).toLocaleTimeString('en-GB')), ` ${text}`);
    item.dataset.level = level;
    return item;
  }));
  rebuild($('lines'), snapshot.lines, () => snapshot.lines.map((line) => make('li', '', line)));
}

function ageChart([name, {ages, age_mean: mean}]) {
  const known = Object.entries(ages).map(([age, groups]) => [Number(age), groups]);
  const most = Math.max(1, ...known.map(([, groups]) => groups));
  const bars = known.sort((one, other) => one[0] - other[0]).map(([age, groups]) => {
    const bar = make('i');
    bar.style.height = `${Math.max(3, 100 * groups / most)}%`;
    const column = make('div', 'age', make('small', '', number(groups)), make('div', 'rise', bar), make('span', '', String(age)));
    column.title = `age ${age}: ${groups} groups`;
    return column;
  });
  return make('div', `ages ${roleClass(name)}`, make('p', '', make('span', 'role', name),
    make('span', 'dim', mean === null ? ' nothing trained yet' : ` mean ${number(mean)}`)), make('div', 'bars', ...bars));
}

// ---- gallery --------------------------------------------------------------------------------------

const gallery = {isSeen: false, isHeld: false, finished: null, at: -GALLERY_MS, asked: 0};

async function ask(path, options) {
  const response = await fetch(path, options);
  if (!response.ok && !options) throw new Error(`${path}: ${response.status}`);
  return response;
}

async function loadFilters() {
  const found = await (await ask('/filters')).json();
  for (const [name, values] of [['role', found.roles], ['reason', found.reasons]]) {
    const select = document.querySelector(`#filters [name=${name}]`);
    const kept = select.value;
    rebuild(select, values, () => [new Option('any', ''), ...values.map((value) => new Option(value, value))]);
    select.value = values.includes(kept) ? kept : '';
  }
}

async function loadGallery() {
  gallery.at = performance.now();
  gallery.finished = snapshot?.games.finished ?? null;
  const request = (gallery.asked += 1);
  const query = new URLSearchParams({limit: 12});
  for (const field of document.querySelectorAll('#filters [name]')) if (field.value) query.set(field.name, field.value);
  const html = await (await ask(`/gallery?${query}`)).text();
  if (request !== gallery.asked) return;
  const open = new Map(detailsOf($('games')).map(([key, element]) => [key, element.open]));
  $('games').innerHTML = html;
  for (const [key, element] of detailsOf($('games'))) element.open = open.get(key) ?? element.open;
}

/* Those inside a game have no id of their own: they are known by their place in it. */
function detailsOf(element) {
  return [...element.querySelectorAll('details.game[id]')].flatMap((game) =>
    [game, ...game.querySelectorAll('details')].map((one, place) => [one.id || `${game.id}/${place}`, one]));
}

function refreshGallery() {
  const isIdle = !gallery.isHeld && !$('games').contains(document.activeElement) && $('live').checked;
  const isNews = snapshot && snapshot.games.finished !== gallery.finished;
  if (!gallery.isSeen || !isIdle || !isNews || performance.now() - gallery.at < GALLERY_MS) return;
  loadGallery().catch(() => {});
  loadFilters().catch(() => {});
}

function startGallery() {
  new IntersectionObserver((entries) => {
    gallery.isSeen = entries.at(-1).isIntersecting;
    refreshGallery();
  }).observe($('gallery'));
  $('games').addEventListener('pointerenter', () => { gallery.isHeld = true; });
  $('games').addEventListener('pointerleave', () => { gallery.isHeld = false; });
  let typing = 0;
  $('filters').addEventListener('input', (event) => {
    if (!event.target.name) return;
    clearTimeout(typing);
    typing = setTimeout(() => loadGallery().catch((error) => put($('games'), error.message)), 250);
  });
}

// ---- control --------------------------------------------------------------------------------------

async function loadControl() {
  const {enabled, actions} = await (await ask('/control')).json();
  $('control').hidden = !enabled;
  for (const element of document.querySelectorAll('#control [data-action]')) {
    element.hidden = Boolean(actions) && !actions.includes(element.dataset.action);
  }
}

async function order(action, body) {
  const answer = $('control-answer');
  put(answer, '…');
  try {
    const headers = {Authorization: `Bearer ${$('token').value}`, 'Content-Type': 'application/json'};
    const response = await ask(`/control/${action}`, {method: 'POST', headers, body: JSON.stringify(body)});
    const said = await response.json().catch(() => ({}));
    put(answer, said.done ?? said.error ?? `the engine answered ${response.status}`);
    answer.className = response.ok ? 'up' : 'bad';
  } catch (error) {
    put(answer, `no answer: ${error.message}`);
    answer.className = 'bad';
  }
}

function startControl() {
  $('token').value = sessionStorage.getItem('token') ?? '';
  $('token').addEventListener('input', () => sessionStorage.setItem('token', $('token').value));
  for (const button of document.querySelectorAll('#control button[data-action]')) {
    const {action} = button.dataset;
    button.addEventListener('click', () => {
      if (action !== 'drain' || confirm('Let the games that run finish, save, and stop the run?')) order(action, {});
    });
  }
  $('log-level').addEventListener('change', () => order('log-level', {level: $('log-level').value}));
}

// ---- the stream of events -------------------------------------------------------------------------

let source = null;
let patience = 1000;

function connect() {
  source = new EventSource('/events');
  const on = (kind, act) => source.addEventListener(kind, (event) => act(JSON.parse(event.data)));
  on('history', (data) => {
    replaceCharts(data.charts);
    for (const chart of charts.values()) drawChart(chart);
    patience = 1000;
    gallery.finished = null;
    loadControl().catch(() => {});
    loadFilters().catch(() => {});
  });
  on('points', (data) => addPoints(data.charts));
  on('snapshot', (data) => {
    snapshot = data;
    heardAt = performance.now();
    if (isDue) return;  // a tab in the background gets no frames for hours
    isDue = true;
    requestAnimationFrame(() => { isDue = false; render(); });
  });
  source.onerror = () => {
    renderConnection();
    if (source.readyState !== EventSource.CLOSED) return;
    source.close();
    setTimeout(connect, patience);
    patience = Math.min(5000, patience * 1.6);
  };
}

/* One part that fails must not take the others with it. */
function render() {
  for (const part of [learnRoles, renderHead, renderBottleneck, renderFlow, renderThroughput, renderProgress, renderHealth, renderConnection]) {
    try { part(); } catch (error) { console.error(error); }
  }
}

function tick() {
  renderConnection();
  if (document.hidden) return;
  for (const chart of charts.values()) drawChart(chart);
  refreshGallery();
}

new ResizeObserver(layFlow).observe($('flow'));
dark.addEventListener('change', redrawCharts);
startGallery();
startControl();
connect();
setInterval(tick, 1000);
