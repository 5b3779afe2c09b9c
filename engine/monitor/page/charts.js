'use strict';

/* One uPlot for each chart, made when it comes into view, or when the browser has nothing to do. */

const MAX_POINTS = 2000;
const dark = matchMedia('(prefers-color-scheme: dark)');
const charts = new Map();

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.get(entry.target.dataset.chart);
    if (chart?.figure !== entry.target) continue;
    chart.isSeen = entry.isIntersecting;
    drawChart(chart);
  }
}, {rootMargin: '150px'});

const sized = new ResizeObserver((entries) => {
  for (const {target, contentRect} of entries) {
    const chart = charts.get(target.parentElement?.dataset.chart);
    if (chart?.plot && contentRect.width) chart.plot.setSize({width: contentRect.width, height: CHART_HEIGHT});
  }
});
const CHART_HEIGHT = 190;

function addChart(info) {
  const unit = info.unit && info.unit !== 'share' ? ` ${info.unit}` : '';
  const body = make('div', 'plot');
  const figure = make('figure', 'panel', make('figcaption', '', info.title, make('small', '', info.x === 'minutes' ? unit : `${unit} by ${info.x}`)), body);
  figure.dataset.chart = info.id;
  const chart = {info, figure, body, series: new Map(), plot: null, isSeen: false, isDirty: true};
  charts.set(info.id, chart);
  ($(`charts-${info.section}`) ?? $('charts-health')).append(figure);
  seen.observe(figure);
  sized.observe(body);
  return chart;
}

function addPoints(list) {
  for (const info of list) {
    const chart = charts.get(info.id) ?? addChart(info);
    for (const [name, points] of Object.entries(info.series)) {
      if (!chart.series.has(name)) {
        chart.series.set(name, []);
        dropPlot(chart);
      }
      const kept = [...chart.series.get(name), ...points];
      chart.series.set(name, kept.length > MAX_POINTS ? kept.filter((_, index) => index % 2 === 0) : kept);
    }
    chart.isDirty = true;
  }
  if (!isDrawingAhead) {
    isDrawingAhead = true;
    whenIdle(drawAhead);
  }
}

let isDrawingAhead = false;
const whenIdle = window.requestIdleCallback ?? ((call) => setTimeout(call, 50));

/* The charts that nobody has seen yet, one by one. */
function drawAhead() {
  const next = [...charts.values()].find((chart) => !chart.plot && chart.isDirty && aligned(chart));
  if (next) drawChart(next, true);
  if (next?.plot) whenIdle(drawAhead);
  else isDrawingAhead = false;
}

/* Charts that stay keep their place on the page: a reconnect does not make it jump. */
function replaceCharts(list) {
  const ids = new Set(list.map((info) => info.id));
  for (const [id, chart] of charts) {
    dropPlot(chart);
    chart.series.clear();
    chart.isDirty = true;
    if (ids.has(id)) continue;
    seen.unobserve(chart.figure);
    sized.unobserve(chart.body);
    chart.figure.remove();
    charts.delete(id);
  }
  addPoints(list);
}

function dropPlot(chart) {
  chart.plot?.destroy();
  chart.plot = null;
}

function redrawCharts() {
  for (const chart of charts.values()) {
    dropPlot(chart);
    chart.isDirty = true;
    drawChart(chart);
  }
}

/* A series that names a role has the role's colour; the second one of a role is dashed. */
function seriesStyles(names) {
  const palette = dark.matches ? DARK : LIGHT;
  const used = new Map();
  const roleOf = (name) => roles.findIndex((role) => name.split(/[ /_]/).includes(role));
  const taken = new Set(names.map(roleOf).filter((role) => role >= 0));
  const free = palette.map((_, index) => index).filter((index) => !taken.has(index));
  return names.map((name, place) => {
    const role = roleOf(name);
    const color = palette[(role >= 0 ? role : free[place % free.length] ?? place) % palette.length];
    const times = used.get(color) ?? 0;
    used.set(color, times + 1);
    return {stroke: color, dash: [undefined, [6, 4], [2, 4]][times % 3], width: 1.8};
  });
}

function lastBefore(values, index) {
  for (let place = index ?? values.length - 1; place >= 0; place -= 1) {
    if (values[place] !== null && values[place] !== undefined) return values[place];
  }
  return null;
}

function aligned(chart) {
  const tables = [...chart.series.values()].filter((points) => points.length)
    .map((points) => [points.map((point) => point[0]), points.map((point) => point[1])]);
  return tables.length ? uPlot.join(tables) : null;
}

/* [low, high] of each point that has an interval, by the name of its series. */
const intervals = (chart) => [...chart.series].flatMap(([name, points]) => points
  .filter((point) => point.length === 4).map(([x, , low, high]) => ({name, x, low, high})));

/* The scale has to hold them too; and a share that never changes is no reason for one up to 10000 %. */
function yRange(chart, low, high) {
  if (low === null || high === null) return [0, 1];
  const ends = intervals(chart).flatMap((one) => [one.low, one.high]);
  const [least, most] = [Math.min(low, ...ends), Math.max(high, ...ends)];
  if (chart.info.unit === 'share' && most - least < 1e-4) return [Math.max(0, least - 0.05), Math.min(1, most) + 0.05];
  return uPlot.rangeNum(least, most, 0.1, true);
}

function drawIntervals(plot, chart) {
  const {ctx} = plot;
  const width = uPlot.pxRatio;
  ctx.save();
  for (const {name, x, low, high} of intervals(chart)) {
    const series = plot.series.find((one) => one.label === name);
    if (!series?.show) continue;
    const [across, bottom, top] = [plot.valToPos(x, 'x', true), plot.valToPos(low, 'y', true), plot.valToPos(high, 'y', true)];
    ctx.strokeStyle = series.stroke();
    ctx.lineWidth = width;
    ctx.beginPath();
    ctx.moveTo(across, bottom);
    ctx.lineTo(across, top);
    for (const end of [bottom, top]) {
      ctx.moveTo(across - 4 * width, end);
      ctx.lineTo(across + 4 * width, end);
    }
    ctx.stroke();
  }
  ctx.restore();
}

function makePlot(chart, data) {
  const {info} = chart;
  const names = [...chart.series].filter(([, points]) => points.length).map(([name]) => name);
  const styles = seriesStyles(names);
  const theme = getComputedStyle(document.documentElement);
  const [dim, rule] = ['--dim', '--rule'].map((name) => theme.getPropertyValue(name).trim());
  const axis = {stroke: dim, font: '11px system-ui, sans-serif', grid: {stroke: rule, width: 1}, ticks: {show: false}};
  const isStep = info.x !== 'minutes';
  const hasIntervals = intervals(chart).length > 0;
  return new uPlot({
    width: chart.body.clientWidth, height: CHART_HEIGHT, padding: [10, 18, 0, 0],
    scales: {x: {time: false}, y: {range: (_, low, high) => yRange(chart, low, high)}},
    hooks: hasIntervals ? {draw: [(plot) => drawIntervals(plot, chart)]} : {},
    legend: {markers: {width: 3, dash: (plot, at) => (plot.series[at].dash ? 'dashed' : 'solid')}},
    cursor: {y: false, drag: {x: true, y: false}},
    axes: [
      {...axis, size: 28, gap: 4, space: 64, incrs: isStep ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 1e4, 1e5, 1e6] : MINUTES,
        values: (_, ticks) => ticks.map((tick) => xText(info.x, tick))},
      {...axis, size: 48, gap: 4, space: 32, values: (_, ticks, at, space, step) => ticks.map((tick) => tickText(info.unit, tick, step))},
    ],
    series: [
      {label: info.x === 'minutes' ? 'at' : info.x, value: (plot, value) => xText(info.x, value ?? plot.data[0].at(-1))},
      ...names.map((name, place) => ({label: name, spanGaps: true, ...styles[place],
        points: {show: chart.series.get(name).length <= 12, size: 6, fill: styles[place].stroke},
        value: (plot, _, at, index) => yText(info.unit, lastBefore(plot.data[at], index))})),
    ],
  }, data, chart.body);
}
const MINUTES = [1 / 60, 1 / 12, 1 / 6, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 1440, 2880, 1e4];

function drawChart(chart, isAhead = false) {
  if (!(chart.isSeen || isAhead) || !chart.isDirty || !chart.body.clientWidth) return;
  const data = aligned(chart);
  if (!data) return;
  chart.isDirty = false;
  if (chart.plot && chart.plot.series.length !== data.length) dropPlot(chart);
  if (!chart.plot) chart.plot = makePlot(chart, data);
  else if (!isZoomed(chart.plot)) chart.plot.setData(data);
  else {
    // It stays where a person zoomed to.
    chart.plot.setData(data, false);
    chart.plot.redraw();
  }
}

function isZoomed(plot) {
  const {min, max} = plot.scales.x;
  return plot.data[0].length > 1 && (min > plot.data[0][0] || max < plot.data[0].at(-1));
}
