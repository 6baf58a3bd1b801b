// Shows only the nodes that match what is typed, and says how many those are. It is kept in the address, as
// ?filter=WORDS, so that what is seen can be shared.
'use strict';

const KEEP_MS = 250; // browsers refuse an address that changes with every key

const field = at('filter');
let wanted = []; // every one of these must be found
let keeping = 0;

// Words, and what stands in quotes as a whole; in small letters.
function wordsOf(text) {
  const matches = text.toLowerCase().matchAll(/"([^"]*)"?|\S+/g);
  return [...matches].map((match) => (match[1] === undefined ? match[0] : match[1]).trim()).filter(Boolean);
}

const found = (...texts) => wanted.every((word) => texts.some((text) => text.includes(word)));

// What is searched of a node or a cluster; made anew only when that is another.
function searched(element, of, parts) {
  if (element.searchedOf !== of) {
    element.searchedOf = of;
    element.searched = parts(of).filter(Boolean).join('\n').toLowerCase();
  }
  return element.searched;
}

const ofNode = (name) => (node) => [name, node.revision, node.goal, node.words, node.reason];
const ofCluster = (cluster) => [cluster.phase, cluster.target, cluster.message, ...Object.values(cluster.notes), ...Object.values(cluster.warnings)];

function hide(element, hidden) {
  if (element.hidden !== hidden) element.hidden = hidden;
}

function siftLane(lane, shown, all) {
  const place = lane.dataset.place.toLowerCase();
  const phase = lane.drawn ? lane.drawn.phase : 'unclaimed';
  let some = false;
  for (const item of lane.lastElementChild.children) {
    const cell = item.firstChild;
    const fits = found(place, phase, searched(cell, cell.drawn, ofNode(cell.node)));
    all.add(cell.node);
    if (fits) shown.add(cell.node);
    // One that has the focus does not vanish under it.
    hide(item, !fits && cell !== document.activeElement);
    some = some || !item.hidden;
  }
  const fits = some || (lane.drawn !== undefined && found(place, searched(lane, lane.drawn, ofCluster)));
  hide(lane, !fits);
  return fits;
}

function sift() {
  if (!state) return;
  const [shown, all] = [new Set(), new Set()];
  for (const section of at('fleet').children) {
    const within = section.querySelector('.lanes');
    if (!within) continue;
    const fit = [...within.children].filter((lane) => siftLane(lane, shown, all));
    hide(section, fit.length === 0 && !found(section.firstElementChild.textContent.toLowerCase()));
  }
  const others = at('others-title').parentElement;
  const items = [...others.lastElementChild.children];
  for (const item of items) {
    all.add(item.node);
    const fits = found(item.textContent.toLowerCase());
    if (fits) shown.add(item.node);
    hide(item, !fits);
  }
  hide(others, items.every((item) => item.hidden));
  say(at('shown'), wanted.length ? `${shown.size} of ${all.size} nodes shown` : '');
  rove(at('fleet'));
}

function want(text) {
  wanted = wordsOf(text);
  sift();
}

function keep() {
  const query = wanted.length ? `?filter=${encodeURIComponent(field.value.trim())}` : '';
  history.replaceState(history.state, '', `${location.pathname}${query}${location.hash}`);
}

function typed() {
  want(field.value);
  clearTimeout(keeping);
  keeping = setTimeout(keep, KEEP_MS);
}

function restore() {
  field.value = new URLSearchParams(location.search).get('filter') || '';
  want(field.value);
}

field.addEventListener('input', typed);
field.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || !field.value) return;
  field.value = '';
  typed();
  event.preventDefault();
  event.stopPropagation();
});
document.addEventListener('keydown', (event) => {
  if (event.key !== '/' || event.altKey || event.ctrlKey || event.metaKey || event.target === field) return;
  event.preventDefault();
  field.focus();
  field.select();
});
document.addEventListener('drawn', sift);
at('fleet').addEventListener('focusout', () => setTimeout(sift));
addEventListener('popstate', restore);
restore();
