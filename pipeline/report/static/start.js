// Controls, then the first drawing.
function press(group, button) {
  for (const one of group.querySelectorAll('button')) one.setAttribute('aria-pressed', String(one === button));
}
for (const group of document.querySelectorAll('.seg[data-set]')) {
  group.addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (!button) return;
    press(group, button);
    state[group.dataset.set] = button.dataset.to;
    draw();
    readout();
  });
}
$('zoom').addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button) zoomTo[button.dataset.do]();
});
$('measure').addEventListener('change', () => { state.measure = $('measure').value; draw(); readout(); });
for (const chip of document.querySelectorAll('.chip')) {
  chip.addEventListener('click', () => {
    const hide = chip.getAttribute('aria-pressed') === 'true';
    chip.setAttribute('aria-pressed', String(!hide));
    if (hide) state.hidden.add(chip.dataset.v); else state.hidden.delete(chip.dataset.v);
    draw();
  });
}
if (R.heat) $('heat-variant').addEventListener('change', drawHeat);
$('theme').addEventListener('click', () => {
  document.documentElement.dataset.theme = theme() === 'dark' ? 'light' : 'dark';
  recolour();
});
dark.addEventListener('change', recolour);
addEventListener('beforeprint', () => { state.printing = true; recolour(); });
addEventListener('afterprint', () => { state.printing = false; recolour(); });

const [, wanted] = /theme=(dark|light)/.exec(location.hash) || [];
if (wanted) document.documentElement.dataset.theme = wanted;
readout();
draw().then(() => document.querySelectorAll('.plot').forEach(listen));
