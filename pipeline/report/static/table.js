// The table of checkpoints: sort by a click on a heading, filter by words, ranges (9000..12000) and column:value.
const tbody = document.querySelector('#checkpoints tbody');
const lines = [...tbody.rows];

function compare(a, b) {
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  return String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0;
}
function sortBy(button) {
  const head = button.closest('th');
  const down = head.getAttribute('aria-sort') === 'ascending';
  for (const other of head.parentNode.children) other.setAttribute('aria-sort', 'none');
  head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const values = C[button.dataset.c];
  const known = (i) => values[i] !== null && values[i] !== undefined;
  lines.sort((one, two) => {
    const i = Number(one.dataset.i); const j = Number(two.dataset.i);
    // What was not measured or diverged is no number: it stays last in both directions.
    if (known(i) !== known(j)) return known(i) ? -1 : 1;
    return (known(i) ? (down ? -1 : 1) * compare(values[i], values[j]) : 0) || i - j;
  });
  tbody.append(...lines);
}

function matches(line, term) {
  const i = Number(line.dataset.i);
  const range = /^(\d*)\.\.(\d*)$/.exec(term);
  if (range) return STEPS[i] >= Number(range[1] || 0) && STEPS[i] <= (range[2] ? Number(range[2]) : Infinity);
  const pair = /^phase:(\d)$/.exec(term);
  if (pair) return C.phase !== undefined && String(C.phase[i]) === pair[1];
  return line.textContent.toLowerCase().includes(term);
}
function filter() {
  const terms = $('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const line of lines) {
    line.hidden = !terms.every((term) => matches(line, term));
    shown += line.hidden ? 0 : 1;
  }
  $('count').textContent = terms.length ? `${shown} of ${lines.length}` : `${lines.length} checkpoint${lines.length === 1 ? "" : "s"}`;
}

for (const button of document.querySelectorAll('#checkpoints thead button')) {
  button.addEventListener('click', () => sortBy(button));
}
$('filter').addEventListener('input', filter);
filter();
