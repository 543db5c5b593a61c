// Charts: specifications get their colours and axes, and three signals (x0, x1, at) that all of them share.
const views = new Map();

function paint(spec, tokens) {
  if (typeof spec === 'string' && spec.startsWith('$')) return tokens[spec];
  if (Array.isArray(spec)) return spec.map((one) => paint(one, tokens));
  if (spec && typeof spec === 'object') {
    return Object.fromEntries(Object.entries(spec).map(([key, value]) => [key, paint(value, tokens)]));
  }
  return spec;
}

function tokens() {
  const measure = state.measure || 'gap';
  return { ...R.tokens, ...R.steps[state.xkind], ...R.damage[state.dkind][measure] };
}

// The rule of curves.perplexity_top, for the part in view: an initial fall that fills the axis runs off its top.
function topOf() {
  const cut = state.xkind === 'linear' ? state.x0 + 0.03 * (state.x1 - state.x0) : -Infinity;
  let full = 0; let late = 0; let nFull = 0; let nLate = 0;
  for (const one of R.series) {
    if (state.hidden.has(one.key)) continue;
    ROWS.forEach((row) => {
      const value = row[one.key + '_perplexity'];
      if (value === null || value === undefined || row.next < state.x0 || row.prev > state.x1) return;
      full = Math.max(full, value); nFull += 1;
      if (row.step >= cut) { late = Math.max(late, value); nLate += 1; }
    });
  }
  return nLate >= nFull / 2 && full > 3 * 1.05 * late ? 1.05 * late : 1.02 * full;
}

function note(name, text) {
  const place = document.querySelector(`[data-note="${name}"]`);
  if (place) place.textContent = text;
}

function specOf(panel, values) {
  const chosen = panel.choices && state.measure && panel.choices[state.measure];
  const spec = paint(chosen || panel.spec, values);
  spec.layer = spec.layer.filter((layer) => !state.hidden.has(layer.variant));
  for (const layer of spec.layer) delete layer.variant;
  for (const param of spec.params) if (param.name in state) param.value = state[param.name];
  for (const param of spec.params) if (param.name === 'top') param.value = topOf();
  if (panel.name === 'perplexity') spec.padding = { left: 0, right: 0, bottom: 0, top: 14 };
  return spec;
}

// Drawing takes a few milliseconds of promises: a drawing that a later one has overtaken is thrown away.
let turn = 0;
async function show(name, spec, datasets, config, renderer) {
  const mine = turn;
  const stage = document.createElement('div');
  const place = document.querySelector(`.plot[data-panel="${name}"]`);
  stage.className = 'stage';
  place.append(stage);
  const { view } = await vegaEmbed(stage, { ...spec, datasets, config }, {
    mode: 'vega-lite', actions: false, renderer, hover: false, tooltip: false, defaultStyle: false, logLevel: 1,
  });
  if (mine !== turn) { view.finalize(); stage.remove(); return; }
  const old = views.get(name);
  if (old) { old.view.finalize(); old.stage.remove(); }
  stage.className = '';
  views.set(name, { view, stage });
}

async function draw() {
  turn += 1;
  const values = tokens();
  const data = { rows: ROWS, diverged: R.diverged, ...paint(R.shared, values) };
  note('damage', R.notes[state.measure || 'gap']);
  const all = R.panels.map((panel) => show(panel.name, specOf(panel, values), data, R.config, 'svg'));
  if (R.heat) all.push(drawHeat());
  await Promise.all(all);
  document.documentElement.dataset.drawn = String(views.size);
}

// Signals change many times a second: the charts follow once per frame.
let pending = false;
function follow() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    for (const [name, { view }] of views) {
      view.signal('x0', state.x0).signal('x1', state.x1).signal('at', state.at);
      if (name === 'perplexity') view.signal('top', topOf());
      view.runAsync();
    }
    readout();
  });
}
