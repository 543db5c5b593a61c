// One state for all charts; draw.js shows it, the other files change it.
const R = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const FULL = [R.params.x0, R.params.x1];
const C = R.columns;
const STEPS = C.step;
const ROWS = STEPS.map((_, i) => {
  const row = {};
  for (const name of Object.keys(C)) row[name] = C[name][i];
  return row;
});
const state = {
  x0: FULL[0], x1: FULL[1], at: null, xkind: 'linear', dkind: 'log', measure: null, hidden: new Set(), printing: false,
};

const dark = matchMedia('(prefers-color-scheme: dark)');
function theme() {
  if (state.printing) return 'light';
  return document.documentElement.dataset.theme || (dark.matches ? 'dark' : 'light');
}

// Numbers as the tables write them.
const MINUS = '\u2212';
function number(value, digits = 3) {
  if (value === null || value === undefined) return '\u2013';
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e6)) {
    return value.toExponential(digits - 1).replace(/\.?0*e/, 'e').replace('e+', 'e').replace(/^-/, MINUS);
  }
  const decimals = Math.max(0, digits - 1 - (size ? Math.floor(Math.log10(size)) : 0));
  return value.toLocaleString('en-US', { minimumFractionDigits: decimals, maximumFractionDigits: decimals }).replace('-', MINUS);
}
const rate = (value) => (value ? value.toExponential(2).replace(/\.?0*e/, 'e').replace('e+', 'e') : '0');
function percent(value, digits = 3, sign = false) {
  if (value === null || value === undefined) return '\u2013';
  const hundred = 100 * value;
  const magnitude = hundred ? Math.floor(Math.log10(Math.abs(hundred))) : 0;
  const decimals = Math.min(3, Math.max(0, digits - 1 - magnitude));
  const text = hundred.toLocaleString('en-US', { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  if (Number(text.replace(/,/g, '')) === 0) return '0\u00a0%';
  return (sign && value > 0 ? '+' : '') + text.replace('-', MINUS) + '\u00a0%';
}
function big(value) {
  for (const [size, unit] of [[1e12, ' T'], [1e9, ' B'], [1e6, ' M'], [1e3, ' k']]) {
    if (value >= size) return Number((value / size).toPrecision(3)) + unit;
  }
  return String(value);
}
const step = (value) => value.toLocaleString('en-US');

function nearest(value) {
  let best = 0;
  STEPS.forEach((one, i) => { if (Math.abs(one - value) < Math.abs(STEPS[best] - value)) best = i; });
  return best;
}
