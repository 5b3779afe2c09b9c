'use strict';

/* Elements, numbers as text, and the colours of roles: what the other scripts draw with. */

const MAX_PIPS = 24;
const LIGHT = ['#0b6bb8', '#c2500a', '#00805c', '#a8468a', '#7a6200', '#3d8fc4', '#5f6b7d', '#6b4fc0'];
const DARK = ['#6cb6ff', '#ff9d5c', '#45cfa3', '#e794cc', '#e0c75a', '#a9d8f5', '#a3afc0', '#b7a1ff'];

let snapshot = null;
let roles = [];

// ---- elements -------------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);

function make(tag, name = '', ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children.filter((child) => child !== null));
  return element;
}

function makeSvg(tag, attributes = {}) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/* Rebuilds only what changed, so that a selection or a scroll position survives the next second. */
const drawn = new WeakMap();
function rebuild(element, value, build) {
  const key = JSON.stringify(value);
  if (drawn.get(element) === key) return;
  drawn.set(element, key);
  element.replaceChildren(...build());
}

function makeMeter(label) {
  const value = make('b');
  const fill = make('i');
  const element = make('div', 'meter', make('span', '', label), value, make('div', 'track', fill));
  return {element, set(share) {
    put(value, percent(share));
    fill.style.width = `${Math.min(1, Math.max(0, share ?? 0)) * 100}%`;
  }};
}

/* A pip stands for one thing, or for so many that all of them fit. */
function drawPips(element, ...numbers) {
  const total = numbers.reduce((sum, number) => sum + number, 0);
  const each = Math.max(1, Math.ceil(total / MAX_PIPS));
  const kinds = numbers.flatMap((number, kind) => Array(Math.ceil(number / each)).fill(`pip${kind}`));
  rebuild(element, kinds, () => kinds.map((kind) => make('i', kind)));
  element.title = each > 1 ? `one mark: ${each}` : '';
}

function fillTable(table, head, rows) {
  rebuild(table, [head, rows], () => [
    make('thead', '', make('tr', '', ...head.map((text) => make('th', '', text)))),
    make('tbody', '', ...rows.map(([name, ...cells]) => {
      const first = make('th', roles.includes(name) ? `role ${roleClass(name)}` : '', name);
      first.scope = 'row';
      return make('tr', '', first, ...cells.map((text) => make('td', '', text)));
    })),
  ]);
}

// ---- numbers --------------------------------------------------------------------------------------

function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  if (size >= 1e9) return value.toExponential(1);
  if (size >= 1e6) return `${trim(value / 1e6, 2)}M`;
  if (size >= 1e3) return `${trim(value / 1e3, size >= 1e4 ? 0 : 1)}k`;
  if (size >= 100) return trim(value, 0);
  if (size >= 10) return trim(value, 1);
  if (size >= 1e-3 || size === 0) return trim(value, size >= 0.1 ? 2 : 4);
  return value.toExponential(1).replace('.0e', 'e');
}

const trim = (value, digits) => String(Number(value.toFixed(digits)));
const count = (value) => (value ?? 0).toLocaleString('en-GB');
const percent = (share) => (share === null || share === undefined ? '–' : `${Math.round(share * 100)} %`);
const sum = (numbers) => numbers.reduce((total, one) => total + (one ?? 0), 0);

function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const two = (value) => String(value).padStart(2, '0');
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

function xText(kind, value) {
  if (kind !== 'minutes') return Number.isInteger(value) ? count(value) : trim(value, 1);
  return value < 60 ? clock(value * 60) : `${clock(value * 60).slice(0, -3)} h`;
}

/* Enough digits to tell ticks apart that lie `step` from each other. */
function tickText(unit, value, step) {
  const [scaled, gap, sign] = unit === 'share' ? [value * 100, step * 100, ' %'] : [value, step, ''];
  if (Math.abs(scaled) >= 1e4) return number(scaled) + sign;
  const digits = Math.min(8, Math.max(0, Math.ceil(-Math.log10(gap) - 1e-9)));
  return (gap < 1e-5 ? scaled.toExponential(1) : scaled.toFixed(digits)) + sign;
}

const yText = (unit, value) => (unit === 'share' ? percent(value) : number(value));

// ---- roles: one colour each, everywhere -----------------------------------------------------------

function learnRoles() {
  const found = [...new Set([...Object.keys(snapshot.stations).filter((name) => name in snapshot.policies),
    ...Object.keys(snapshot.policies), ...Object.keys(snapshot.streams)])];
  if (found.join() === roles.join()) return;
  roles = found;
  redrawCharts();
}

const roleClass = (name) => `r${Math.max(0, roles.indexOf(name)) % LIGHT.length}`;
