// Hover, zoom and pan of all charts together. Distances are those on the axis, which may be logarithmic.
const along = (value) => (state.xkind === 'symlog' ? Math.log1p(value) : value);
const back = (place) => (state.xkind === 'symlog' ? Math.expm1(place) : place);

function window_(lo, hi) {
  const [first, last] = FULL.map(along);
  const least = (last - first) / 400;
  const width = Math.min(Math.max(hi - lo, least), last - first);
  const start = Math.min(Math.max((lo + hi - width) / 2, first), last - width);
  state.x0 = back(start);
  state.x1 = back(start + width);
  if (width >= last - first) [state.x0, state.x1] = FULL;
  follow();
}
function zoomBy(factor, around) {
  const lo = along(state.x0); const hi = along(state.x1);
  const center = around === undefined ? (lo + hi) / 2 : around;
  window_(center - (center - lo) * factor, center + (hi - center) * factor);
}
function panBy(share) {
  const lo = along(state.x0); const hi = along(state.x1);
  const [first, last] = FULL.map(along);
  const wanted = share * (hi - lo);
  const shift = Math.min(Math.max(wanted, first - lo), last - hi);
  window_(lo + shift, hi + shift);
}
const zoomTo = {
  in: () => zoomBy(0.5), out: () => zoomBy(2), left: () => panBy(-0.3), right: () => panBy(0.3),
  reset: () => window_(...FULL.map(along)),
};

function pixels(plot, event) {
  const { view } = views.get(plot.dataset.panel);
  const left = view.origin()[0];
  return { x: event.clientX - plot.getBoundingClientRect().left - left, left, width: view.signal('width') };
}
function placeAt(plot, event) {
  const { x, width } = pixels(plot, event);
  const lo = along(state.x0); const hi = along(state.x1);
  return lo + (Math.min(Math.max(x, 0), width) / width) * (hi - lo);
}
function nearestPlace(place) {
  let best = -1;
  STEPS.forEach((one, i) => {
    if (one < state.x0 || one > state.x1) return;
    if (best < 0 || Math.abs(along(one) - place) < Math.abs(along(STEPS[best]) - place)) best = i;
  });
  return best;
}
function pick(i) {
  state.at = i < 0 ? null : STEPS[i];
  follow();
}

function listen(plot) {
  let from = null; let brush = null;
  plot.addEventListener('pointermove', (event) => {
    if (from && from.pan) {
      const { width } = pixels(plot, event);
      panBy(-(event.clientX - from.x) / width);
      from.x = event.clientX;
      return;
    }
    pick(nearestPlace(placeAt(plot, event)));
    if (plot.dataset.panel === 'heat') heatWhere(plot, event);
    if (from && Math.abs(event.clientX - from.x) > 5) {
      brush = brush || plot.appendChild(Object.assign(document.createElement('div'), { className: 'brush' }));
      const left = plot.getBoundingClientRect().left;
      brush.style.left = Math.min(event.clientX, from.x) - left + 'px';
      brush.style.width = Math.abs(event.clientX - from.x) + 'px';
    }
  });
  plot.addEventListener('pointerdown', (event) => {
    pick(nearestPlace(placeAt(plot, event)));
    if (plot.dataset.panel === 'heat') heatWhere(plot, event);
    if (event.pointerType !== 'mouse' || event.button) return;
    from = { x: event.clientX, place: placeAt(plot, event), pan: event.shiftKey };
    plot.setPointerCapture(event.pointerId);
  });
  plot.addEventListener('pointerup', (event) => {
    if (brush) {
      const to = placeAt(plot, event);
      brush.remove();
      window_(Math.min(from.place, to), Math.max(from.place, to));
    }
    from = null; brush = null;
  });
  plot.addEventListener('pointerleave', (event) => { if (event.pointerType === 'mouse' && !from) pick(-1); });
  plot.addEventListener('dblclick', zoomTo.reset);
  plot.addEventListener('wheel', (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoomBy(event.deltaY > 0 ? 1.25 : 0.8, placeAt(plot, event));
  }, { passive: false });
  plot.addEventListener('keydown', (event) => {
    const here = state.at === null ? STEPS.length - 1 : STEPS.indexOf(state.at);
    const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -1e9, End: 1e9 };
    if (event.shiftKey && event.key.startsWith('Arrow')) panBy(event.key === 'ArrowLeft' ? -0.2 : 0.2);
    else if (event.key in moves) pick(Math.min(Math.max(here + moves[event.key], 0), STEPS.length - 1));
    else if (event.key === '+' || event.key === '=') zoomTo.in();
    else if (event.key === '-') zoomTo.out();
    else if (event.key === '0' || event.key === 'Escape') zoomTo.reset();
    else return;
    event.preventDefault();
  });
}
