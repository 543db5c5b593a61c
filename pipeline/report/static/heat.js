// The heat map: 16-bit levels, row by row, become cells.
const MISSING = 65535;
const DIVERGED = 65534;
let heatLevels = null;

function drawHeat() {
  const H = R.heat;
  const chosen = H.values[$('heat-variant').value];
  const bytes = Uint8Array.from(atob(chosen.data), (one) => one.charCodeAt(0));
  const raw = new DataView(bytes.buffer);
  heatLevels = (row, column) => {
    const level = raw.getUint16(2 * (row * H.steps.length + column), true);
    return level === MISSING ? null : level === DIVERGED ? NaN : level * chosen.unit;
  };
  const cells = [];
  H.rows.forEach(([, y, y2], row) => H.edges.forEach(([a, b], column) => {
    const v = heatLevels(row, column);
    if (v !== null) cells.push({ a, b, y, y2, v: Number.isNaN(v) ? null : v });
  }));
  const values = { ...H.tokens, ...R.steps[state.xkind] };
  const spec = specOf({ name: 'heat', spec: H.spec }, values);
  const colours = H.themes[theme()];
  for (const param of spec.params) if (param.name in colours) param.value = colours[param.name];
  const data = { cells, marks: R.shared.marks, layers: H.layers, headings: H.headings };
  return show('heat', spec, data, H.config, 'canvas');
}

// Everything else follows the page's palette by itself.
function recolour() {
  if (!views.has('heat')) return;
  const { view } = views.get('heat');
  for (const [name, value] of Object.entries(R.heat.themes[theme()])) view.signal(name, value);
  view.run();
}

function heatWhere(plot, event) {
  const H = R.heat;
  const y = event.clientY - plot.getBoundingClientRect().top - views.get('heat').view.origin()[1];
  const row = H.rows.findIndex(([, from, to]) => y >= from && y < to);
  const at = back(placeAt(plot, event));
  const column = H.edges.findIndex(([a, b]) => at >= a && at < b);
  if (row < 0 || column < 0) return;
  const found = heatLevels(row, column);
  const shown = found === null ? 'not measured' : Number.isNaN(found) ? 'diverged' : number(found, 4);
  $('heat-where').textContent = H.rows[row][0] + ' at step ' + step(H.steps[column]) + ': ' + shown;
}
