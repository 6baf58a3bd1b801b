// Past and present rollouts, and the way of every node in one of them, from the controller's history. It is asked for
// when something has happened, and at most every two seconds.
'use strict';

const PAUSE_MS = 2000;
const ROLLOUTS = 20;
const ENTRIES = 2000;
// With more nodes than this, the ways are folded at first.
const OPEN_MAX = 12;
const ENDS = {
  completed: ['good', '✓ completed'], held: ['bad', '✗ held'], rolled_back: ['bad', '✗ rolled back'],
  superseded: ['wait', '→ superseded'], under_way: ['work', '↑ under way'],
};

let told = null; // the id of the rollout that is shown
let toldBy = null; // the button that it was opened with
let entries = []; // its entries, as far as they are known
let later = null; // where to ask on
let asking = false;
let again = false;
let lastAsked = 0;

async function ask(path) {
  const answer = await fetch(path);
  const document_ = await answer.json();
  if (!answer.ok) {
    const error = new Error(document_.error || `the answer is ${answer.status}`);
    error.passes = answer.status === 503; // others ask as well
    throw error;
  }
  return document_;
}

// One question at a time; what happens meanwhile is asked for after it.
async function refresh() {
  if (asking) { again = true; return; }
  asking = true;
  try {
    do {
      again = false;
      const wait = lastAsked + PAUSE_MS - Date.now();
      if (wait > 0) await new Promise((done) => setTimeout(done, wait));
      lastAsked = Date.now();
      await load();
    } while (again);
  } finally {
    asking = false;
  }
}

async function load() {
  try {
    drawRollouts((await ask(`api/v1/rollouts?limit=${ROLLOUTS}`)).rollouts);
    if (told && !later) await follow(told);
  } catch (error) {
    if (error instanceof TypeError) return; // the link says that there is no controller
    if (error.passes) again = true;
    say(at('past-none'), error.message);
    at('past-none').hidden = false;
  }
}

function way(rollout) {
  return `${rollout.from || 'none'} → ${rollout.to || 'unknown'}`;
}

function drawRollouts(rollouts) {
  say(at('past-none'), 'No rollout is known.');
  at('past-none').hidden = rollouts.length > 0;
  const byId = new Map(rollouts.map((rollout) => [rollout.rollout, rollout]));
  const drawn = keyed(at('rollouts'), [...byId.keys()], newRollout);
  for (const [id, rollout] of byId) {
    const [name, end, when] = drawn.get(id).firstChild.children;
    const [kind, words] = ENDS[rollout.outcome] || ['wait', rollout.outcome];
    say(name, `${rollout.app}/${rollout.cluster} ${way(rollout)}`);
    set(end, 'class', kind);
    say(end, words + (rollout.failed.length ? `; failed: ${rollout.failed.join(', ')}` : ''));
    const took = rollout.ended ? `, took ${span(rollout.ended - rollout.begun)}` : '';
    say(when, `${date(rollout.begun)}${took}${rollout.cause ? `, ${rollout.cause}` : ''}`);
  }
}

function newRollout(id) {
  const item = make('li');
  const button = make('button', 'rollout');
  button.type = 'button';
  button.rollout = id;
  button.setAttribute('aria-pressed', 'false');
  button.append(make('b'), make('span'), make('span', 'faint'));
  item.append(button);
  return item;
}

function date(ms) {
  return `${new Date(ms).toLocaleDateString('en-CA')} ${clock(ms)}`;
}

function openRollout(button) {
  closeRollout(false);
  set(button, 'aria-pressed', 'true');
  [told, toldBy, entries, later] = [button.rollout, button, [], null];
  at('ways').replaceChildren();
  at('ways').keyed = null;
  at('rollout-facts').replaceChildren();
  at('rollout').hidden = false;
  say(at('rollout-name'), `Rollout ${told}`);
  at('rollout-name').focus();
  follow(told).catch((error) => fact('Trouble', error.message));
}

function closeRollout(back) {
  if (!told) return;
  told = null;
  at('rollout').hidden = true;
  set(toldBy, 'aria-pressed', 'false');
  if (back && toldBy.isConnected) toldBy.focus();
}

// Asks for what came after that which is known.
async function follow(id) {
  const last = entries.length ? `&after=${entries[entries.length - 1].id}` : '';
  const page = await ask(`api/v1/history/${encodeURIComponent(id)}?limit=${ENTRIES}${last}`);
  if (told !== id) return;
  entries = entries.concat(page.entries.filter((entry) => !entries.length || entry.id > entries[entries.length - 1].id));
  later = page.after || null;
  at('rollout-more').hidden = !later;
  drawRollout(page.rollout);
}

function fact(name, text) {
  const list = at('rollout-facts');
  let value = list.querySelector(`[data-row="${name}"]`);
  if (!value) {
    value = make('dd');
    value.dataset.row = name;
    list.append(make('dt', '', name), value);
  }
  say(value, text);
}

function drawRollout(rollout) {
  fact('Of', `${rollout.app}/${rollout.cluster}, ${way(rollout)}`);
  const took = rollout.ended ? `, after ${span(rollout.ended - rollout.begun)}` : '';
  fact('Outcome', `${(ENDS[rollout.outcome] || ['', rollout.outcome])[1]}${took}`);
  fact('Begun', date(rollout.begun));
  fact('Declared by', rollout.cause || rollout.commit || 'files without a commit');
  if (rollout.failed.length) fact('Failed', rollout.failed.join(', '));
  const epochs = new Set(entries.filter((entry) => entry.epoch).map((entry) => `${entry.epoch} of controller ${entry.controller}`));
  fact('Epochs', [...epochs].join(', then ') || 'unknown');
  const ways = new Map();
  for (const entry of entries) {
    const node = entry.node || '';
    if (!ways.has(node)) ways.set(node, []);
    ways.get(node).push(entry);
  }
  const nodes = [...ways.keys()].sort(order);
  const drawn = keyed(at('ways'), nodes, (node) => newWay(nodes.length <= OPEN_MAX || !node));
  for (const node of nodes) {
    const [summary, list] = drawn.get(node).children;
    const steps = ways.get(node);
    say(summary, `${node || rollout.cluster}: ${steps[steps.length - 1].what}`);
    const shown = keyed(list, steps.map((entry) => String(entry.id)), () => make('li'));
    for (const entry of steps) {
      const item = shown.get(String(entry.id));
      if (!item.firstChild) drawStep(item, rollout.begun, entry);
    }
  }
}

function newWay(open) {
  const details = make('details');
  details.open = open;
  details.append(make('summary'), make('ol', 'way'));
  return details;
}

function drawStep(item, begun, entry) {
  const after = (entry.at - begun) / 1000;
  const time = make('time', '', `${after < 0 ? '−' : '+'}${Math.abs(after).toFixed(3)} s`);
  time.dateTime = new Date(entry.at).toISOString();
  const change = entry.kind !== 'decision' && (entry.before || entry.after) ? ` (${entry.before || 'nothing'} → ${entry.after || 'nothing'})` : '';
  item.append(time, ' ', make('span', '', entry.what + change));
  if (entry.cause && !entry.what.includes(entry.cause)) item.append(make('span', 'because', `; ${entry.cause}`));
}

document.addEventListener('news', refresh);
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && told && !event.defaultPrevented) { closeRollout(true); event.preventDefault(); }
});
document.addEventListener('click', (event) => {
  const button = event.target.closest('.rollout');
  if (button) openRollout(button);
});
at('rollout-close').addEventListener('click', () => closeRollout(true));
at('rollout-more').addEventListener('click', () => follow(told).catch((error) => fact('Trouble', error.message)));
