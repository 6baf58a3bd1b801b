// Follows the fleet by server-sent events and shows it. Whatever comes from the fleet becomes text, never markup.
'use strict';

// With nothing heard for so long (the controller says something every 2 s), what is shown is old.
const STALE_MS = 7000;
// A browser does not try again by itself after an answer that is no stream.
const AGAIN_MS = 2000;

const at = (id) => document.getElementById(id);
const KINDS = {
  'in-service': 'good', serves: 'good',
  upgrading: 'work', 'taking-out': 'work', settling: 'work', 'putting-back': 'work',
  waiting: 'wait', held: 'wait', unclaimed: 'wait',
  failed: 'bad', blocked: 'bad', missing: 'bad',
};
const PHASES = {
  converged: ['good', '✓ converged'], progressing: ['work', '↑ progressing'], degraded: ['bad', '! degraded'],
};

let state = null; // the document; parts that did not change keep their identity
let heard = 0; // when something was last heard, by this machine's clock
let offset = 0; // the controller's clock less this one's
let linked = false;
let source = null;
let due = false;
let chosen = null; // [app, node]
let opener = null; // the cell's key that had the focus
let asked = 0;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// Writes only what differs: a text node that is replaced is read out again, and laid out again.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function set(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

function clock(ms) {
  return new Date(ms).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
}

function behind(commit) {
  if (!commit) return 'files without a commit';
  const and = commit.modified ? ', and changes that are not committed' : '';
  return `commit ${commit.id.slice(0, 12)}: ${commit.subject}${and}`;
}

function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  return `${Math.floor(s / 86400)} days`;
}

// RFC 7396, without touching `old`.
function merge(old, patch) {
  if (patch === null || typeof patch !== 'object' || Array.isArray(patch)) return patch;
  const isObject = old !== null && typeof old === 'object' && !Array.isArray(old);
  const result = Object.assign(Object.create(null), isObject ? old : {});
  for (const name of Object.keys(patch)) {
    if (patch[name] === null) delete result[name];
    else result[name] = merge(result[name], patch[name]);
  }
  return result;
}

// ---- the link ----

function connect() {
  if (source) source.close();
  source = new EventSource('api/v1/stream');
  source.addEventListener('state', (event) => take(JSON.parse(event.data), true));
  source.addEventListener('change', (event) => take(JSON.parse(event.data), false));
  source.onerror = () => {
    linked = false;
    tick();
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, AGAIN_MS);
  };
}

function take(document_, whole) {
  if (!whole && !state) return;
  const before = state;
  state = whole ? merge(null, document_) : merge(state, document_);
  // The page of another version belongs to another program.
  if (before && before.version !== state.version) return location.reload();
  heard = Date.now();
  offset = state.at - heard;
  linked = true;
  if (before && before.events !== state.events) announce(happened(before.events), happened(state.events));
  // The history is asked for by itself, when there may be more of it.
  if (!before || before.events !== state.events) document.dispatchEvent(new CustomEvent('news'));
  if (!due) {
    due = true;
    requestAnimationFrame(() => { due = false; draw(); });
  }
}

// Oldest first: numbers as names are in their order.
const happened = (events) => Object.values(events);

function announce(before, after) {
  const key = (event) => JSON.stringify(event);
  const known = new Set(before.map(key));
  const last = before.length ? before[before.length - 1].at : 0;
  const fresh = after.filter((event) => event.important && event.at >= last && !known.has(key(event)));
  if (fresh.length) {
    const more = fresh.length > 3 ? `, and ${fresh.length - 3} more` : '';
    say(at('said'), fresh.slice(-3).map(sentence).join('; ') + more);
  }
}

function place(event) {
  return [event.app, event.cluster, event.node].filter(Boolean).join('/');
}

function sentence(event) {
  return `${place(event)}: ${event.what}`;
}

// Once a second: how old it is, and how long it will take.
function tick() {
  const age = Date.now() - heard;
  const live = linked && age < STALE_MS;
  const link = at('link');
  set(link, 'data-live', live ? 'yes' : heard ? 'lost' : 'no');
  say(link, live ? `● live, as of ${clock(heard)}` : heard ? `✗ not connected, last seen ${clock(heard)}` : 'connecting…');
  document.body.classList.toggle('lost', !live && heard > 0);
  let warning = '';
  if (!live && heard) warning = `Not connected to the controller; trying again. What is shown was last seen at ${clock(heard)}, and may be wrong by now.`;
  else if (state && !state.bus_live) warning = 'The controller is not connected to the bus: what it says of nodes is old, and nothing is changed.';
  else if (state && !state.desired_read) warning = 'The controller has found no desired files yet.';
  say(at('warning'), warning);
  at('warning').hidden = !warning;
  document.title = live || !heard ? title() : 'not connected – evenkeel';
  for (const element of document.querySelectorAll('[data-ends]')) say(element, expected(element.dataset));
  for (const element of document.querySelectorAll('[data-since]')) {
    say(element, `${span(Date.now() + offset - Number(element.dataset.since))} (${clock(Number(element.dataset.since) - offset)})`);
  }
}

function expected(data) {
  if (data.ends === 'unknown') return 'expected end: unknown';
  const left = Number(data.ends) - Date.now() - offset;
  if (left < 10000) return 'expected end: any moment (an estimate)';
  const words = left < 90000 ? `${Math.ceil(left / 10000) * 10} s` : left < 5400000 ? `${Math.ceil(left / 60000)} min` : `${Math.ceil(left / 3600000)} h`;
  return `expected end: about ${words} left, at ${clock(Number(data.ends) - offset).slice(0, 5)} (an estimate)`;
}

function clusters() {
  return Object.values(state ? state.apps : {}).flatMap((app) => Object.values(app.clusters));
}

function title() {
  const count = (phase) => clusters().filter((cluster) => cluster.phase === phase).length;
  const [bad, work] = [count('degraded'), count('progressing')];
  if (bad) return `! ${bad} degraded – evenkeel`;
  return work ? `↑ ${work} progressing – evenkeel` : 'evenkeel';
}

// ---- the fleet ----

// Makes `parent` have one child for each name, in this order; makes and removes as few as it can.
function keyed(parent, names, create) {
  const children = parent.keyed || (parent.keyed = new Map());
  const wanted = new Set(names);
  for (const [name, child] of children) {
    if (!wanted.has(name)) { child.remove(); children.delete(name); }
  }
  let next = parent.firstElementChild;
  for (const name of names) {
    let child = children.get(name);
    if (!child) { child = create(name); children.set(name, child); }
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
  }
  return children;
}

const order = new Intl.Collator('en', { numeric: true }).compare;
const names = (object) => Object.keys(object || {}).sort(order);

function draw() {
  const apps = names(state.apps);
  const fleet = at('fleet');
  const drawn = keyed(fleet, [...apps.map((app) => `app ${app}`), 'others'], (key) => (key === 'others' ? newOthers() : newApp(key.slice(4))));
  for (const app of apps) drawApp(drawn.get(`app ${app}`), app, state.apps[app]);
  drawOthers(drawn.get('others'));
  drawEvents();
  const total = everybody().size;
  const count = clusters().length;
  say(at('sum'), `${count} ${count === 1 ? 'cluster' : 'clusters'}, ${total} ${total === 1 ? 'node' : 'nodes'}`);
  say(at('version'), `evenkeel ${state.version}.`);
  rove(fleet);
  document.dispatchEvent(new CustomEvent('drawn'));
  drawNode();
  tick();
  if (sought === null) seek();
}

function everybody() {
  const unclaimed = Object.values(state.apps).map((app) => ({ nodes: app.unclaimed }));
  const all = [...clusters(), ...unclaimed, { nodes: state.others }];
  return new Set(all.flatMap((part) => Object.keys(part.nodes)));
}

let lanes = 0;
let sought = null;

// A message links to its cluster: #app/cluster.
function seek() {
  sought = location.hash.slice(1);
  const lane = [...document.querySelectorAll('[data-place]')].find((one) => one.dataset.place === sought);
  if (!lane) return;
  lane.scrollIntoView();
  lane.querySelector('h3').focus({ preventScroll: true });
}

function newApp(app) {
  const section = make('section', 'app');
  const heading = make('h2', '', app);
  heading.id = `app-${lanes += 1}`;
  section.setAttribute('aria-labelledby', heading.id);
  section.append(heading, make('p', 'commit'), make('p', 'note unled'), make('ul', 'lbs'), make('div', 'lanes'));
  return section;
}

function drawApp(section, name, app) {
  if (section.drawn === app) return;
  section.drawn = app;
  const [, commit, unled, lbs, all] = section.children;
  say(commit, `declared by ${behind(app.commit)}`);
  const none = Object.keys(app.clusters).length ? '' : 'No cluster is known: its files have gone, or were never without a fault.';
  say(unled, app.leads ? none : 'This controller does not lead the app yet.');
  drawBalancers(lbs, app.balancers);
  const shown = names(app.clusters);
  const keys = [...shown.map((cluster) => `c ${cluster}`), ...(Object.keys(app.unclaimed).length ? ['unclaimed'] : [])];
  const drawn = keyed(all, keys, (key) => newLane(name, key === 'unclaimed' ? 'in no cluster' : key.slice(2)));
  for (const cluster of shown) drawLane(drawn.get(`c ${cluster}`), name, app.clusters[cluster]);
  const unclaimed = drawn.get('unclaimed');
  if (unclaimed) drawCells(unclaimed.lastElementChild, name, app.unclaimed);
}

function drawBalancers(list, balancers) {
  const all = names(balancers).flatMap((backend) => names(balancers[backend]).map((lb) => [backend, lb]));
  const drawn = keyed(list, all.map(([backend, lb]) => `${backend} at ${lb}`), () => {
    const item = make('li', 'lb');
    item.append(make('span'), gauge());
    return item;
  });
  for (const [backend, lb] of all) {
    const b = balancers[backend][lb];
    const item = drawn.get(`${backend} at ${lb}`);
    if (item.drawn === b) continue;
    item.drawn = b;
    let words = `backend ${backend} at ${lb}: ${b.ready} of ${b.servers} servers ready, floor ${b.floor}`;
    if (b.ready < b.floor) words += ' – below the floor';
    if (b.presence !== 'present') words += ` – its agent is ${b.presence}`;
    if (b.error) words += ` – ${b.error}`;
    say(item.firstChild, words);
    const [, ready, floor] = item.lastChild.children;
    const part = (n) => String(b.servers ? (100 * n) / b.servers : 0);
    ready.setAttribute('width', part(b.ready));
    floor.setAttribute('x1', part(b.floor));
    floor.setAttribute('x2', part(b.floor));
  }
}

// Ready servers, and a line at the floor; the words beside it say the same.
function gauge() {
  const NS = 'http://www.w3.org/2000/svg';
  const part = (tag, attributes) => {
    const element = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const svg = part('svg', { class: 'gauge', viewBox: '0 0 100 10', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  svg.append(
    part('rect', { class: 'all', width: 100, height: 10 }),
    part('rect', { class: 'ready', width: 0, height: 10 }),
    part('line', { x1: 0, x2: 0, y1: 0, y2: 10 }),
  );
  return svg;
}

function newLane(app, name) {
  const lane = make('section', 'lane');
  const head = make('div', 'lane-head');
  const top = make('div', 'lane-title');
  const heading = make('h3', '', name);
  heading.id = `lane-${lanes += 1}`;
  heading.tabIndex = -1;
  lane.dataset.place = `${app}/${name}`;
  lane.setAttribute('aria-labelledby', heading.id);
  top.append(heading, make('span', 'word'), make('span', 'target'));
  const progress = make('div', 'progress');
  const bar = make('progress');
  bar.setAttribute('aria-label', `rollout of ${name}`);
  progress.append(bar, make('span', 'far'), make('span', 'ends'));
  head.append(top, progress, make('p', 'faint'), make('ul', 'notes'));
  head.lastChild.setAttribute('role', 'list');
  const cells = make('ul', 'cells');
  cells.setAttribute('aria-label', `nodes of ${name}`);
  lane.append(head, cells);
  return lane;
}

function drawLane(lane, app, cluster) {
  if (lane.drawn === cluster) return;
  lane.drawn = cluster;
  const [top, progress, message, notes] = lane.firstElementChild.children;
  const [, word, target] = top.children;
  const [kind, words] = PHASES[cluster.phase] || ['wait', cluster.phase];
  set(word, 'class', `word ${kind}`);
  say(word, words);
  let revision = `revision ${cluster.target}, ${cluster.converged} of ${cluster.expected} nodes at it and in service`;
  if (cluster.converged_on && cluster.converged_on !== cluster.target) revision += `; last converged on ${cluster.converged_on}`;
  if (cluster.present < cluster.expected) revision += `; ${cluster.expected - cluster.present} not there`;
  say(target, revision);
  progress.hidden = !cluster.progress;
  if (cluster.progress) drawProgress(progress, cluster.progress);
  say(message, cluster.message);
  const texts = { ...cluster.notes, ...cluster.warnings };
  const told = names(texts);
  const drawn = keyed(notes, told, () => make('li', 'note'));
  for (const cause of told) say(drawn.get(cause), `${cause.replaceAll('_', ' ')}: ${texts[cause]}`);
  drawCells(lane.lastElementChild, app, cluster.nodes);
}

function drawProgress(progress, p) {
  const [bar, far, ends] = progress.children;
  bar.max = Math.max(1, 2 * p.nodes);
  bar.value = p.upgraded + p.in_service;
  say(far, `rollout: ${p.upgraded} of ${p.nodes} upgraded, ${p.in_service} back in service`);
  ends.dataset.ends = p.ends || 'unknown';
}

function drawCells(list, app, nodes) {
  const all = names(nodes);
  const drawn = keyed(list, all, (name) => newCell(app, name));
  for (const name of all) {
    const node = nodes[name];
    const cell = drawn.get(name).firstChild;
    if (cell.drawn === node) continue;
    cell.drawn = node;
    const [, revision, line, reason] = cell.children;
    set(cell, 'data-kind', KINDS[node.state] || 'wait');
    set(cell, 'data-state', node.state);
    let runs = node.revision ? `runs ${node.revision}` : 'revision unknown';
    if (node.goal && node.goal !== node.revision) runs += `, to be ${node.goal}`;
    say(revision, runs);
    say(line, `${node.sign} ${node.words}`);
    say(reason, node.reason);
  }
}

function newCell(app, name) {
  const item = make('li');
  const cell = make('button', 'cell');
  cell.type = 'button';
  cell.tabIndex = -1;
  cell.app = app;
  cell.node = name;
  cell.setAttribute('aria-pressed', 'false');
  cell.append(make('b', '', name), make('span', 'runs'), make('span', 'state'), make('span', 'reason'));
  item.append(cell);
  return item;
}

function newOthers() {
  const section = make('section', 'app');
  const heading = make('h2', '', 'Other nodes');
  heading.id = 'others-title';
  section.setAttribute('aria-labelledby', heading.id);
  section.append(heading, make('ul', 'lbs'));
  return section;
}

function drawOthers(section) {
  const others = state.others;
  const list = section.lastElementChild;
  const all = names(others);
  const drawn = keyed(list, all, (name) => Object.assign(make('li', 'lb'), { node: name }));
  for (const name of all) {
    const node = others[name];
    const sign = node.presence === 'present' ? '✓' : '!';
    say(drawn.get(name), `${sign} ${name}: ${node.roles.join(', ') || 'no role'}, ${node.presence}`);
  }
}

function drawEvents() {
  const list = at('events');
  if (list.drawn === state.events) return;
  list.drawn = state.events;
  const seen = new Map();
  const keys = new Map();
  for (const event of happened(state.events)) {
    const text = JSON.stringify(event);
    const turn = (seen.get(text) || 0) + 1;
    seen.set(text, turn);
    keys.set(`${turn} ${text}`, event);
  }
  keyed(list, [...keys.keys()].reverse(), (key) => {
    const event = keys.get(key);
    const item = make('li', event.important ? 'important' : '');
    const time = make('time', '', clock(event.at - offset));
    time.dateTime = new Date(event.at).toISOString();
    item.append(time, ' ', make('span', '', sentence(event)));
    return item;
  });
}

// ---- keyboard, and one node in full ----

const isShown = (cell) => !cell.closest('[hidden]');
const cells = () => [...document.querySelectorAll('.cell')].filter(isShown);

// One cell is reached by Tab; from there the arrows go on.
function rove(fleet) {
  const reached = fleet.querySelector('.cell[tabindex="0"]');
  if (reached && isShown(reached)) return;
  const first = [...fleet.querySelectorAll('.cell')].find(isShown);
  if (!first) return;
  if (reached) reached.tabIndex = -1;
  first.tabIndex = 0;
}

function focus(cell) {
  for (const other of document.querySelectorAll('.cell[tabindex="0"]')) other.tabIndex = -1;
  cell.tabIndex = 0;
  cell.focus();
}

// The cell in the row above or below that is nearest to this one.
function beside(all, from, down) {
  const box = from.getBoundingClientRect();
  let best = null;
  for (const cell of all) {
    const other = cell.getBoundingClientRect();
    const away = down ? other.top - box.bottom : box.top - other.bottom;
    if (away < -1) continue;
    const score = away * 1000 + Math.abs(other.left - box.left);
    if (!best || score < best.score) best = { cell, score };
  }
  return best && best.cell;
}

function onKey(event) {
  if (event.key === 'Escape' && chosen) { closeNode(); event.preventDefault(); return; }
  const cell = event.target.closest && event.target.closest('.cell');
  if (!cell || event.altKey || event.ctrlKey || event.metaKey) return;
  const all = cells();
  const index = all.indexOf(cell);
  const to = {
    ArrowRight: () => all[index + 1], ArrowLeft: () => all[index - 1],
    ArrowDown: () => beside(all, cell, true), ArrowUp: () => beside(all, cell, false),
    Home: () => all[0], End: () => all[all.length - 1],
  }[event.key];
  if (!to) return;
  event.preventDefault();
  const next = to();
  if (next) focus(next);
}

function openNode(cell) {
  for (const other of document.querySelectorAll('.cell[aria-pressed="true"]')) set(other, 'aria-pressed', 'false');
  set(cell, 'aria-pressed', 'true');
  chosen = [cell.app, cell.node];
  opener = cell;
  at('node').hidden = false;
  at('facts').replaceChildren();
  at('facts').drawn = null;
  focusOn(at('node-name'), cell.node);
  drawNode();
}

function focusOn(heading, text) {
  say(heading, text);
  heading.focus();
}

function closeNode() {
  chosen = null;
  at('node').hidden = true;
  if (opener) {
    set(opener, 'aria-pressed', 'false');
    if (opener.isConnected) focus(opener);
  }
}

function lookUp([app, node]) {
  const of = state.apps[app];
  if (!of) return null;
  const cluster = names(of.clusters).find((name) => of.clusters[name].nodes[node]);
  const seen = cluster ? of.clusters[cluster].nodes[node] : of.unclaimed[node];
  return seen ? { cluster, seen, commit: of.commit } : null;
}

// What the stream says of it at once; the rest is asked for.
function drawNode() {
  if (!chosen || !state) return;
  const [app, node] = chosen;
  const found = lookUp(chosen);
  if (!found) return row('State', 'not known to the controller any more');
  if (at('facts').drawn === found.seen) return;
  at('facts').drawn = found.seen;
  const { cluster, seen, commit } = found;
  row('State', `${seen.sign} ${seen.words}`);
  row('Reason', seen.reason || 'none is given');
  if (seen.since) at('facts').querySelector('[data-row="Since"]') || row('Since', '');
  if (seen.since) at('facts').querySelector('[data-row="Since"]').dataset.since = seen.since;
  row('Revision', seen.revision || 'unknown');
  row('Should be', seen.goal || 'not decided');
  row('App and cluster', cluster ? `${app}/${cluster}` : `${app}, in no cluster`);
  row('Declared by', behind(commit));
  tick();
  const turn = asked += 1;
  fetch(`api/v1/nodes/${encodeURIComponent(node)}`).then((answer) => (answer.ok ? answer.json() : null)).then((full) => {
    if (!full || turn !== asked || !chosen || chosen[1] !== node) return;
    const part = full.apps[app] || {};
    row('Agent', `${full.presence}, version ${full.agent || 'unknown'}`);
    for (const [lb, server] of Object.entries(part.servers || {})) row(`Server ${server.server} at ${lb}`, server.state);
    if (part.last_attempt) row('Last attempt', part.last_attempt);
    if (part.last_checks) row('Last checks', part.last_checks);
    const facts = Object.entries(full.facts).map(([name, value]) => `${name} = ${value}`);
    row('Facts', facts.join(', ') || 'none');
  }).catch(() => {}); // the link says that there is no controller
}

function row(name, text) {
  const rows = at('facts').rows || (at('facts').rows = new Map());
  let value = rows.get(name);
  if (!value || !value.isConnected) {
    value = make('dd');
    value.dataset.row = name;
    rows.set(name, value);
    at('facts').append(make('dt', '', name), value);
  }
  say(value, text);
}

addEventListener('hashchange', seek);
document.addEventListener('keydown', onKey);
document.addEventListener('click', (event) => {
  const cell = event.target.closest('.cell');
  if (cell) { focus(cell); openNode(cell); }
});
at('close').addEventListener('click', closeNode);
setInterval(tick, 1000);
connect();
