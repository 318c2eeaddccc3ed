// Draws what /events tells: tables of rows, patched as they change.  Every text goes in as text: nothing here makes HTML
// of anything, and the page's policy (Trusted Types) forbids it besides.

const HELPED = new Set(["utp-punched", "tcp-punched", "predicted", "birthday"]);
const RELAYED = new Set(["relayed", "turn"]);
const FEW_TORRENTS = 8, FEW_PEERS = 12, MORE = 50;
const SECONDS_SHOWN = 120;
const STATUS_WORDS = {
  "stopped": "Stopped", "check-wait": "Waits to be checked", "check": "Checking", "download-wait": "Waits its turn",
  "download": "Downloading", "seed-wait": "Waits to share", "seed": "Sharing",
};
const STATUS_ORDER = ["download", "check", "seed", "check-wait", "download-wait", "seed-wait", "stopped"];
const SOURCE_WORDS = {
  tracker: "Trackers", dht: "The DHT", pex: "Other peers", lsd: "The local network", incoming: "They came by themselves",
  manual: "You", resume: "An earlier run",
};
const MAPPING_WORDS = {
  "endpoint-independent": "one port for everybody", "address-dependent": "another port for each address",
  "address-and-port-dependent": "another port for each peer", "none": "no NAT",
};
const FILTERING_WORDS = {
  "endpoint-independent": "lets in whoever knows the port", "address-dependent": "lets in addresses we wrote to",
  "address-and-port-dependent": "lets in peers we wrote to", "none": "lets everybody in",
};

const tables = { torrents: new Map(), paths: new Map(), peers: new Map(), now: new Map(), words: new Map() };
const traffic = [];
const shownRows = { torrents: FEW_TORRENTS, peers: FEW_PEERS };
let lastNews = 0;

// -- small tools ------------------------------------------------------------------------------------------------------

const byId = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "data") Object.assign(made.dataset, value);
    else if (key.includes("-") || key === "scope" || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Rows keep their elements, so that what is open, focused or selected stays so.
function keyed(list, items, keyOf, make, update) {
  const known = new Map([...list.children].map((child) => [child.rowKey, child]));
  let place = list.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = known.get(key);
    if (child === undefined) {
      child = make(item);
      child.rowKey = key;
    }
    known.delete(key);
    if (child === place) place = place.nextElementSibling;
    else list.insertBefore(child, place);
    update(child, item);
  }
  for (const child of known.values()) child.remove();
}

const digits = (number) => (number < 9.995 ? number.toFixed(2) : number < 99.95 ? number.toFixed(1) : number.toFixed(0));
const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

function unitOf(count) {
  let unit = 0;
  while (count / 1000 ** unit >= 999.5 && unit < UNITS.length - 1) unit += 1;
  return unit;
}

function bytes(count) {
  const unit = unitOf(count);
  return `${unit ? digits(count / 1000 ** unit) : count.toFixed(0)} ${UNITS[unit]}`;
}

function part(done, total) {
  if (done === total) return bytes(total);
  const unit = unitOf(total), scale = 1000 ** unit;
  const whole = unit ? digits(total / scale) : `${total}`;
  return `${(done / scale).toFixed((whole.split(".")[1] || "").length)} of ${whole} ${UNITS[unit]}`;
}

const rate = (count) => `${bytes(count)}/s`;

function duration(seconds) {
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(0)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  for (const [size, name, smaller, smallerName] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
    if (whole >= size) {
      const rest = Math.floor((whole % size) / smaller);
      return `${Math.floor(whole / size)} ${name}${rest ? ` ${rest} ${smallerName}` : ""}`;
    }
  }
}

// Rounded down: all of it is said of the whole only.
const percent = (done, total) => (total ? `${(Math.floor((done * 1000) / total) / 10).toFixed(1)} %` : "");
const number = (count) => count.toLocaleString("en");
const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const kindOf = (path) => (HELPED.has(path) ? "helped" : RELAYED.has(path) ? "relayed" : "direct");
const words = (table, key) => (tables.words.get(table) || {})[key];
const pathName = (path) => (words("paths", path) || [path])[0];
const reasonOf = (slug) => words("reasons", slug) || (slug.startsWith("errno-") ? `the system said error ${slug.slice(6)}` : slug.replaceAll("-", " "));
const lowered = (text) => text[0].toLowerCase() + text.slice(1);
const namers = (sources) => sources.filter((source) => source !== "incoming").map((source) => lowered(SOURCE_WORDS[source] || source)).join(", ");
const nameOf = (hash) => torrentNames.get(hash) || hash.slice(0, 12);
const now = (name) => tables.now.get(name);
let torrentNames = new Map();

// -- the head ---------------------------------------------------------------------------------------------------------

function drawHead() {
  const node = now("node"), verdict = now("verdict"), totals = now("totals");
  const port = node.listen.length ? `port ${node.listen[0].endpoint.split(":").pop()}` : "not listening";
  const up = duration(Math.max(0, Date.now() / 1000 - node.opened_at));
  say(byId("node"), `swarm ${node.version} · ${port} · up ${up}`);
  say(byId("verdict"), verdict.title);
  document.querySelector(".hero").dataset.tone = verdict.tone;
  keyed(byId("sentences"), verdict.sentences, (text) => text, (text) => element("p", {}, text), () => {});
  say(byId("down"), rate(totals.down));
  say(byId("up"), rate(totals.up));
  say(byId("connected"), counted(totals.connected, "peer"));
  const tried = totals.reached + totals.missed;
  say(byId("reached"), tried ? `${number(totals.reached)} of ${number(tried)}` : "nobody tried yet");
  document.title = totals.down || totals.up ? `↓ ${rate(totals.down)} ↑ ${rate(totals.up)} – swarm` : "swarm";
  drawReachability();
  const advice = now("advice");
  byId("advice").hidden = !advice.length;
  keyed(byId("advice-list"), advice, (text) => text, (text) => element("li", {}, text), () => {});
}

function drawReachability() {
  const verdicts = now("reachability");
  const chips = [["4", "IPv4"], ["6", "IPv6"]].flatMap(([family, familyName]) =>
    [["utp", "µTP"], ["tcp", "TCP"]].map(([transport, name]) => ({ label: `${familyName} ${name}`, flag: verdicts[transport + family] })));
  keyed(byId("reachability"), chips, (chip) => chip.label,
    (chip) => element("li", {}, element("b", {}, chip.label), element("span")),
    (item, { flag }) => {
      item.dataset.verdict = flag === null ? "unknown" : flag ? "yes" : "no";
      say(item.lastChild, flag === null ? "not known" : flag ? "✓ reached" : "✕ not reached");
    });
}

function drawTraffic() {
  const { down, up } = now("totals"), at = Date.now() / 1000;
  if (!traffic.length || at - traffic.at(-1).at >= 0.5) traffic.push({ at, down, up });
  while (traffic[0].at < at - SECONDS_SHOWN) traffic.shift();
  const peak = Math.max(1, ...traffic.map((each) => Math.max(each.down, each.up)));
  const path = (of) => traffic.map((each, index) =>
    `${index ? "L" : "M"}${(SECONDS_SHOWN - (at - each.at)).toFixed(2)} ${(35 - (each[of] / peak) * 33).toFixed(2)}`).join("");
  document.querySelector(".line-down").setAttribute("d", path("down"));
  document.querySelector(".line-up").setAttribute("d", path("up"));
  say(byId("peak"), peak > 1 ? `two minutes, at most ${rate(peak)}` : "two minutes");
}

// -- torrents ---------------------------------------------------------------------------------------------------------

function drawTorrents() {
  const all = [...tables.torrents].map(([id, row]) => ({ id, ...row }));
  torrentNames = new Map(all.map((row) => [row.hash, row.name]));
  const rank = (row) => (row.error !== null ? -1 : STATUS_ORDER.indexOf(row.status));
  all.sort((one, other) => rank(one) - rank(other) || one.name.localeCompare(other.name) || one.id - other.id);
  const wanted = byId("torrents-find").value.trim().toLowerCase();
  const found = wanted ? all.filter((row) => row.name.toLowerCase().includes(wanted)) : all;
  keyed(byId("torrent-list"), found.slice(0, shownRows.torrents), (row) => row.id, makeTorrent, updateTorrent);
  byId("torrents-filter").hidden = all.length <= FEW_TORRENTS;
  byId("torrents-empty").hidden = all.length > 0;
  more("torrents", found.length, "torrent");
  say(byId("torrents-note"), !all.length ? "" : wanted ? `${number(found.length)} of ${number(all.length)}` : counts(all));
}

function counts(all) {
  const failed = all.filter((row) => row.error !== null).length;
  const downloading = all.filter((row) => row.status === "download").length;
  const sharing = all.filter((row) => row.status === "seed").length;
  return [counted(now("totals").torrents, "torrent"), downloading && `${number(downloading)} downloading`,
    sharing && `${number(sharing)} sharing`, failed && `${number(failed)} failed`].filter(Boolean).join(", ");
}

function makeTorrent() {
  return element("li", {},
    element("div", { className: "row" }, element("bdi", { className: "name" }), element("span", { className: "part" })),
    element("progress", { max: 1 }),
    element("div", { className: "row details" }, element("span"), element("span", { className: "rates" })),
    element("p", { className: "problem" }));
}

function updateTorrent(item, row) {
  const [head, bar, details, problem] = item.children;
  const [looked, of] = row.checked || [row.done, row.total];
  item.dataset.status = row.status;
  say(head.firstChild, row.name);
  head.firstChild.title = row.name;
  say(head.lastChild, percent(looked, of));
  bar.value = of ? looked / of : 0;
  bar.setAttribute("aria-label", row.name);
  say(details.firstChild, about(row));
  say(details.lastChild, [row.down && `↓ ${rate(row.down)}`, row.up && `↑ ${rate(row.up)}`].filter(Boolean).join("  "));
  problem.hidden = row.error === null;
  say(problem, row.error || "");
}

function about(row) {
  const left = row.down > 0 && row.total > row.done ? (row.total - row.done) / row.down : null;
  return [
    row.error !== null ? "Failed" : row.status === "download" && !row.total ? "Asking peers what it is" : STATUS_WORDS[row.status] || row.status,
    row.checked ? `${number(row.checked[0])} of ${number(row.checked[1])} pieces` : row.total ? part(row.done, row.total) : "",
    row.peers ? counted(row.peers, "peer") : row.status === "download" ? "no peers" : "",
    row.status === "seed" && row.uploaded ? `${bytes(row.uploaded)} given` : "",
    left !== null && left < 8640000 ? `${duration(left)} left` : "",
  ].filter(Boolean).join(" · ");
}

function more(what, count, noun) {
  const button = byId(`${what}-more`), hidden = count - shownRows[what];
  button.hidden = hidden <= 0;
  if (hidden > 0) say(button, hidden > MORE ? `Show ${MORE} more of ${counted(hidden, noun)}` : `Show ${counted(hidden, `more ${noun}`)}`);
}

// -- peers that were not reached --------------------------------------------------------------------------------------

function drawMissed() {
  const missed = Object.entries(now("missed"));
  const total = missed.reduce((sum, [, count]) => sum + count, 0);
  const groups = new Map(missed.map(([cause]) => [cause, []]));
  for (const [key, peer] of tables.peers) if (peer.cause !== null && groups.has(peer.cause)) groups.get(peer.cause).push([key, peer]);
  keyed(byId("cause-list"), missed, ([cause]) => cause, makeCause, (item, [cause, count]) => {
    const [title, meaning] = words("causes", cause) || [cause, ""];
    const details = item.firstChild, text = details.firstChild.lastChild;
    say(details.firstChild.firstChild, number(count));
    say(text.firstChild, title);
    say(text.lastChild, meaning);
    if (details.open) drawUnreached(details.lastChild, groups.get(cause));
  });
  byId("missed-empty").hidden = total > 0;
  say(byId("missed-note"), total ? `${counted(total, "peer")}, counted once for each torrent` : "");
}

function makeCause() {
  const details = element("details", {},
    element("summary", {}, element("span", { className: "count" }), element("div", { className: "cause" }, element("b"), element("span"))),
    element("ul", { className: "unreached" }));
  details.addEventListener("toggle", () => drawSoon());
  return element("li", {}, details);
}

function drawUnreached(list, peers) {
  const newest = [...peers].sort(([, one], [, other]) => other.at - one.at);
  keyed(list, newest, ([key]) => key,
    () => element("li", {}, element("p", { className: "end" }), element("dl"), element("p", { className: "from" })),
    (item, [, peer]) => {
      say(item.children[0], peer.endpoint);
      keyed(item.children[1], Object.entries(peer.failures), ([path, slug]) => `${path} ${slug}`,
        ([path, slug]) => element("div", {}, element("dt", {}, pathName(path)), element("dd", {}, reasonOf(slug))), () => {});
      const named = namers(peer.sources);
      const ago = duration(Math.max(1, Math.round((Date.now() / 1000 - peer.at) / 10) * 10));
      say(item.children[2], [`${ago} ago`, named && `named by ${named}`, nameOf(peer.torrent)].filter(Boolean).join(" · "));
    });
}

// -- ways, time, sources ----------------------------------------------------------------------------------------------

function drawWays() {
  const rows = [...tables.paths].map(([key, row]) => ({ path: key.split(" ")[0], direction: key.split(" ")[1], ...row }));
  const order = Object.keys(tables.words.get("paths") || {});
  rows.sort((one, other) => order.indexOf(one.path) - order.indexOf(other.path));
  const most = Math.max(1, ...rows.map((row) => row.attempted));
  for (const direction of ["out", "in"]) {
    const section = byId(`ways-${direction}`), found = rows.filter((row) => row.direction === direction);
    section.hidden = !found.length;
    keyed(section.lastElementChild, found, (row) => row.path, makeWay, (item, row) => updateWay(item, row, most));
  }
  byId("ways-empty").hidden = rows.length > 0;
  drawTimes(rows);
}

function makeWay(row) {
  const track = element("div", { className: "track" }, element("div", { className: "tried" }, element("div", { className: "met" })));
  const meaning = (words("paths", row.path) || ["", ""])[1];
  return element("li", { data: { kind: kindOf(row.path) } }, element("details", {},
    element("summary", { title: meaning },
      element("span", { className: "way" }, pathName(row.path)), track, element("span", { className: "tally" }), element("span", { className: "about" })),
    element("div", { className: "why" }, element("p", {}, `${meaning[0].toUpperCase()}${meaning.slice(1)}.`), element("ul"))));
}

function updateWay(item, row, most) {
  const [summary, why] = item.firstChild.children;
  const [, track, tally, text] = summary.children;
  track.firstChild.style.width = `${(row.attempted / most) * 100}%`;
  track.firstChild.firstChild.style.width = `${row.attempted ? (row.succeeded / row.attempted) * 100 : 0}%`;
  say(tally, `${number(row.succeeded)} of ${number(row.attempted)}`);
  say(text, [
    row.p50 !== null && `half met within ${duration(row.p50)}`,
    row.down > 0 && `↓ ${bytes(row.down)}`,
    row.up > 0 && `↑ ${bytes(row.up)}`,
    row.p50 === null && !row.down && !row.up && mostOf(row.failed),
  ].filter(Boolean).join(" · "));
  keyed(why.lastChild, Object.entries(row.failed), ([slug]) => slug,
    ([slug]) => element("li", {}, element("b"), element("span", {}, reasonOf(slug))),
    (line, [, count]) => say(line.firstChild, number(count)));
}

function mostOf(counts) {
  const [first] = Object.entries(counts);
  return first === undefined ? "" : `mostly: ${reasonOf(first[0])}`;
}

function drawTimes(rows) {
  const bins = [];
  for (const row of rows) row.octaves.forEach((count, index) => {
    bins[index] = bins[index] || { direct: 0, helped: 0, relayed: 0 };
    bins[index][kindOf(row.path)] += count;
  });
  const sum = (bin) => (bin ? bin.direct + bin.helped + bin.relayed : 0);
  const all = [...bins].reduce((total, bin) => total + sum(bin), 0);
  byId("histogram").hidden = byId("time-caption").hidden = !all;
  byId("time-empty").hidden = all > 0;
  if (!all) return;
  const first = Math.min(Math.max(0, bins.findIndex((bin) => sum(bin))), Math.max(0, bins.length - 8));
  const shown = [...bins.keys()].slice(first), most = Math.max(...bins.map(sum));
  keyed(byId("histogram"), shown, (index) => index,
    (index) => element("div", { className: "bin", title: `up to ${octave(index)}` },
      ...["relayed", "helped", "direct"].map((kind) => element("i", { data: { kind } })), element("span", {}, octave(index))),
    (bin, index) => {
      for (const bar of [...bin.children].slice(0, 3)) {
        const count = bins[index] ? bins[index][bar.dataset.kind] : 0;
        bar.style.height = `${(count / most) * 7}rem`;
        bar.hidden = !count;
      }
    });
  say(byId("time-caption"), caption(bins, sum, all));
}

const octave = (index) => {
  const seconds = 0.001 * 2 ** index;
  return seconds < 0.5 ? `${2 ** index}\u00a0ms` : `${seconds < 0.9 ? "0.5" : Math.round(seconds)}\u00a0s`;
};

function caption(bins, sum, all) {
  if (all === 1) return `The only connection so far stood within ${octave(bins.length - 1)}.`;
  let seen = 0, half = null;
  for (const [index, bin] of bins.entries()) {
    seen += sum(bin);
    if (half === null && seen * 2 >= all) half = `${Math.floor((seen * 100) / all)} % of ${number(all)} connections stood within ${octave(index)}`;
    if (seen * 10 >= all * 9) return seen === all && index === bins.length - 1 ? `${half}, all of them within ${octave(index)}.` : `${half}, ${Math.floor((seen * 100) / all)} % within ${octave(index)}.`;
  }
  return "";
}

function drawSources() {
  const rows = Object.entries(now("sources")).filter(([, count]) => count).sort(([, one], [, other]) => other - one);
  const most = Math.max(1, ...rows.map(([, count]) => count));
  keyed(byId("source-list"), rows, ([source]) => source,
    ([source]) => element("li", {}, element("span", {}, SOURCE_WORDS[source] || source), element("div", {}, element("div", { className: "met" })), element("span")),
    (item, [, count]) => {
      item.children[1].firstChild.style.width = `${(count / most) * 100}%`;
      say(item.children[2], number(count));
    });
  byId("sources-empty").hidden = rows.length > 0;
}

// -- connected peers --------------------------------------------------------------------------------------------------

function drawPeers() {
  const rows = [...tables.peers].filter(([, peer]) => peer.connected).sort(([one, a], [other, b]) => b.down + b.up - a.down - a.up || one.localeCompare(other));
  keyed(byId("peer-list"), rows.slice(0, shownRows.peers), ([key]) => key, makePeer, updatePeer);
  byId("peer-table").hidden = !rows.length;
  byId("peers-empty").hidden = rows.length > 0;
  const all = now("totals").connected;
  say(byId("peers-note"), all > rows.length ? `${number(all)}, of whom ${number(rows.length)} can be shown` : all ? counted(all, "peer") : "");
  more("peers", rows.length, "peer");
}

function makePeer([, peer]) {
  const cell = (label) => element("td", { className: "number", "data-label": label });
  return element("tr", {},
    element("td", {}, peer.endpoint, element("small")),
    element("td", {}, element("span", { className: "dot" }), element("small")),
    element("td"), cell("Met in"), cell("Round trip"), cell("Down"), cell("Up"));
}

function updatePeer(row, [, peer]) {
  const [who, way, torrent, met, trip, down, up] = row.children;
  say(who.lastChild, peer.client || "client not told");
  way.firstChild.dataset.kind = kindOf(peer.path);
  say(way.firstChild, pathName(peer.path));
  say(way.lastChild, peer.direction === "in" ? "came to us" : `dialled${namers(peer.sources) && `; named by ${namers(peer.sources)}`}`);
  say(torrent, nameOf(peer.torrent));
  say(met, peer.seconds === null ? "" : duration(peer.seconds));
  say(trip, peer.rtt === null ? "" : duration(peer.rtt));
  say(down, bytes(peer.down));
  say(up, bytes(peer.up));
}

// -- the network ------------------------------------------------------------------------------------------------------

function drawNetwork() {
  const nat = now("nat"), dht = now("dht");
  for (const [family, name] of [["v4", "IPv4"], ["v6", "IPv6"]]) drawFamily(byId(family), name, nat[family], dht[family]);
  const leases = now("gateway");
  keyed(byId("lease-list"), leases, (lease) => JSON.stringify([lease.method, lease.transport, lease.gateway, lease.internal]),
    () => element("li", {}, element("b"), " ", element("span")), (item, lease) => updateLease(item, lease, leases));
  byId("leases-empty").hidden = leases.length > 0;
  drawPunches();
}

const flagWords = (flag, yes, no) => (flag === null ? null : flag ? yes : no);

function drawFamily(place, name, nat, dht) {
  if (!place.firstChild) place.append(element("h3", {}, name), element("dl", { className: "facts" }), element("ul", { className: "evidence" }));
  const facts = nat === null ? [["Nothing", "this family is not in use"]] : [
    ["Seen from outside", nat.external.join(", ") || null],
    ["The NAT keeps", MAPPING_WORDS[nat.mapping] || null],
    ["Its filter", FILTERING_WORDS[nat.filtering] || null],
    ["Outside port", flagWords(nat.port_preserving, "the same as ours", "another than ours")],
    ["Next port", nat.port_step === null ? null : nat.port_step === 0 ? "drawn at random" : `${nat.port_step > 0 ? "+" : ""}${nat.port_step}`],
    ["A second NAT", flagWords(nat.double_nat, "yes, beyond your router", "none")],
    ["Own address from inside", flagWords(nat.hairpin, "leads back", "leads nowhere")],
    ["An idle mapping lasts", nat.lifetime === null ? null : duration(nat.lifetime)],
    ["DHT", dht === null || dht === undefined ? null : counted(dht.nodes, "node")],
  ];
  const known = facts.filter(([, text]) => text !== null), open = facts.filter(([, text]) => text === null).map(([label]) => lowered(label));
  if (open.length && known.length) known.push(["Not known", open.join(", ")]);
  if (!known.length) known.push(["Not known", "anything, until others have told what they see of us"]);
  keyed(place.children[1], known, ([label]) => label, ([label]) => element("div", {}, element("dt", {}, label), element("dd")),
    (row, [label, text]) => {
      say(row.lastChild, text);
      row.lastChild.className = label === "Not known" ? "unknown" : "";
    });
  keyed(place.children[2], nat === null ? [] : nat.evidence, (text) => text, (text) => element("li", {}, text), () => {});
}

function updateLease(item, lease, leases) {
  const method = words("methods", lease.method) || lease.method, transport = lease.transport.toUpperCase();
  const where = lease.gateway ? `${method} at ${lease.gateway}` : method, open = lease.external !== null;
  const otherwise = leases.some((each) => each.external !== null && each.transport === lease.transport && each.internal === lease.internal);
  item.dataset.open = open ? "yes" : otherwise ? "otherwise" : "no";
  say(item.firstChild, open ? `${transport} is open as ${lease.external}` : otherwise ? `${transport}, another way:` : `${transport} is closed:`);
  const left = lease.minutes === null ? "for good" : `for ${duration(lease.minutes * 60)} more, then renewed`;
  const reason = words("gateway", lease.error) || (lease.error || "is being asked").replaceAll("-", " ");
  say(item.lastChild, open ? `by ${where}, ${left}` : `${where} ${reason}`);
}

function drawPunches() {
  const place = byId("punches"), punch = now("punch");
  if (!place.firstChild) place.append(element("dl", { className: "facts" }), element("p", { className: "empty" }, "None yet. Where a NAT lets no stranger in, a third peer can introduce us; how often that works will be told here."));
  const rows = [["initiator", "We asked for"], ["target", "Asked of us"], ["relay", "We introduced others"]]
    .filter(([role]) => punch[role].asked || punch[role].connected)
    .map(([role, label]) => [label, `${number(punch[role].connected)} of ${number(punch[role].asked)} ${role === "relay" ? "passed on" : "met"}`]);
  for (const [pair, counts] of Object.entries(punch.initiator.by_nat)) {
    const [ours, theirs] = pair.split("|").map((mapping) => MAPPING_WORDS[mapping] || "not known");
    rows.push([`Ours: ${ours}; theirs: ${theirs}`, `${number(counts.connected)} of ${number(counts.tried)} met`]);
  }
  keyed(place.firstChild, rows, ([label]) => label, ([label]) => element("div", {}, element("dt", {}, label), element("dd")),
    (row, [, text]) => say(row.lastChild, text));
  place.lastChild.hidden = rows.length > 0;
}

// -- the feed ---------------------------------------------------------------------------------------------------------

let waiting = false;
function drawSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    if (now("node") === undefined) return;
    drawTorrents();
    drawHead();
    drawTraffic();
    drawMissed();
    drawWays();
    drawSources();
    drawPeers();
    drawNetwork();
  });
}

function take(patch) {
  if (patch.full) for (const table of Object.values(tables)) table.clear();
  for (const [name, rows] of Object.entries(patch.tables)) {
    const table = tables[name];
    if (table === undefined) continue;
    for (const [key, row] of Object.entries(rows)) {
      if (row === null) table.delete(key);
      else table.set(key, row);
    }
  }
}

function live(state, text) {
  document.body.dataset.state = byId("live").dataset.state = state;
  say(byId("live"), text);
}

const feed = new EventSource("events");
feed.onopen = () => live("live", "live");
feed.onmessage = (event) => {
  lastNews = Date.now();
  take(JSON.parse(event.data));
  drawSoon();
};
feed.onerror = () => {
  live("lost", lastNews ? `lost at ${new Date(lastNews).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}; trying again` : "no answer; trying again");
  if (feed.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 15000); // it was refused: too many watch, or the password changed
};

setInterval(drawSoon, 1000); // what ages does so without news
byId("torrents-find").addEventListener("input", () => {
  shownRows.torrents = FEW_TORRENTS;
  drawSoon();
});
for (const what of ["torrents", "peers"]) byId(`${what}-more`).addEventListener("click", () => {
  shownRows[what] += MORE;
  drawSoon();
});
