// The values at one checkpoint: under the pointer, else the last.
function words(i) {
  const row = ROWS[i];
  const parts = [];
  if (row.phase !== undefined && row.phase !== null) parts.push('phase ' + row.phase);
  if (row.tokens_seen) parts.push(big(row.tokens_seen) + ' tokens');
  if (row.learning_rate !== undefined && row.learning_rate !== null) parts.push('learning rate ' + rate(row.learning_rate));
  for (const one of R.unvaried) {
    const value = row[one.name];
    if (value !== undefined && value !== null) parts.push(one.label + ' ' + written(value, one.written));
  }
  if (row.duplicate_of) parts.push('same weights as ' + row.duplicate_of);
  return parts;
}

function damageText(row, key) {
  const measure = state.measure || 'gap';
  const value = row[key + '_' + measure];
  if (key === 'fp32' || value === undefined) return '';
  if (value === null) return '';
  if (measure === 'gap') return percent(value, 3, true);
  return written(value, R.written[measure]);
}

function written(value, kind) {
  return kind === 'share' ? percent(value, 4) : number(value, kind === 'number' ? 4 : 3);
}

// [perplexity, damage] of one variant; a phone has room for one of them.
function valueTexts(i, key) {
  const row = ROWS[i];
  if (R.diverged.some((one) => one.key === key && one.step === row.step)) return ['diverged', ''];
  const perplexity = row[key + '_perplexity'];
  if (perplexity === null || perplexity === undefined) return ['not measured', ''];
  return ['ppl ' + number(perplexity, 4), damageText(row, key)];
}

function readout() {
  const i = state.at === null ? STEPS.length - 1 : STEPS.indexOf(state.at);
  const where = $('where');
  const name = document.createElement('b');
  name.textContent = 'Step ' + step(STEPS[i]);
  where.replaceChildren(name, ' ' + [state.at === null ? 'last' : '', ...words(i)].filter(Boolean).join(' \u00b7 '));
  const said = [];
  for (const chip of document.querySelectorAll('.chip')) {
    const [perplexity, damage] = valueTexts(i, chip.dataset.v);
    chip.querySelector('.ppl').textContent = perplexity;
    chip.querySelector('.gap').textContent = damage;
    said.push([chip.querySelector('b').textContent, perplexity, damage].join(' '));
  }
  for (const plot of document.querySelectorAll('.plot[role=slider]')) {
    plot.setAttribute('aria-valuemin', STEPS[0]);
    plot.setAttribute('aria-valuemax', STEPS[STEPS.length - 1]);
    plot.setAttribute('aria-valuenow', STEPS[i]);
    plot.setAttribute('aria-valuetext', 'step ' + step(STEPS[i]) + ', ' + [...words(i), ...said].join(', '));
  }
}
