// The table of test rows: search, sort, pages. Text goes in as textContent alone.
'use strict';
(() => {
  const PAGE = 10;
  const HEAD = 350, TAIL = 150;  // characters that show of a longer text; a question ends it
  const data = JSON.parse(document.getElementById('data').textContent);
  const [search, sort, figure, other, place, back, next] =
    ['search', 'sort', 'figure', 'other', 'place', 'back', 'next'].map((id) => document.getElementById(id));
  const body = document.querySelector('#rows tbody');
  const soft = data.arms.indexOf('soft');
  let found = data.rows;
  let first = 0;

  for (const row of data.rows) {
    row.searched = [row.id, row.source, row.target, ...row.predictions].join('\n').toLowerCase();
  }

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function text(value) {
    if (value.length <= HEAD + TAIL) return [element('div', 'text', value)];
    const shown = element('div', 'text', `${value.slice(0, HEAD)} […] ${value.slice(-TAIL)}`);
    const all = element('button', '', `show all ${value.length.toLocaleString('en')} characters`);
    all.onclick = () => { shown.textContent = value; all.remove(); };
    return [shown, all];
  }

  function cell(label, className, parts) {
    const made = element('td', className);
    made.dataset.label = label;
    made.append(...parts);
    return made;
  }

  // How far soft is ahead of the other in a row: positive is better, whatever the figure.
  function lead(row, i) {
    if (!other.value) return 0;  // soft is the only arm
    const gain = row.scores[soft][i] - row.scores[Number(other.value)][i];
    return data.figures[i].lower ? -gain : gain;
  }

  function scores(row, arm) {
    const made = element('div', 'scores');
    made.append(...data.figures.map((f, i) =>
      element('div', i === Number(figure.value) ? 'by' : '', `${f.title} ${row.scores[arm][i].toPrecision(3)}`)));
    return made;
  }

  function line(row) {
    const made = element('tr');
    const gain = lead(row, Number(figure.value));
    const ahead = gain > 0 ? soft : gain < 0 ? Number(other.value) : null;
    made.append(
      cell('source', '', [...text(row.source), element('div', 'id', row.id)]),
      cell('target', '', text(row.target)),
      ...data.arms.map((name, arm) => cell(name, `${name}-cell${arm === ahead ? ' ahead' : ''}`,
        [...text(row.predictions[arm]), scores(row, arm)])),
    );
    return made;
  }

  function show() {
    body.replaceChildren(...found.slice(first, first + PAGE).map(line));
    const last = Math.min(first + PAGE, found.length);
    place.textContent = found.length
      ? `rows ${first + 1} to ${last} of ${found.length.toLocaleString('en')}` : 'no row holds that text';
    back.disabled = first === 0;
    next.disabled = last === found.length;
  }

  function select() {
    const words = search.value.toLowerCase();
    found = data.rows.filter((row) => row.searched.includes(words));
    const by = Number(figure.value);
    const keys = {differ: (row) => Math.abs(lead(row, by)), soft: (row) => lead(row, by), other: (row) => -lead(row, by)};
    const key = keys[sort.value];
    if (key) found.sort((a, b) => key(b) - key(a));
    first = 0;
    show();
  }

  data.figures.forEach((f, i) => figure.append(new Option(f.title, i)));
  data.arms.forEach((name, i) => { if (i !== soft) other.append(new Option(name, i)); });
  if (data.other) other.value = data.arms.indexOf(data.other);
  let typed;
  search.oninput = () => { clearTimeout(typed); typed = setTimeout(select, 120); };
  sort.onchange = figure.onchange = other.onchange = select;
  back.onclick = () => { first -= PAGE; show(); };
  next.onclick = () => { first += PAGE; show(); };
  document.getElementById('needs-script').remove();
  document.getElementById('rows-card').hidden = false;
  show();
})();
