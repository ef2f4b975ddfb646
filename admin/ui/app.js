// The operators' page: shows what the JSON API says, every two seconds, and gives its orders. It keeps nothing.

const $ = (id) => document.getElementById(id);

// element makes <tag class="…">…children</tag>; text is never parsed as HTML.
function element(tag, props, ...children) {
  const e = Object.assign(document.createElement(tag), props);
  e.append(...children.filter((c) => c !== null && c !== undefined));
  return e;
}

async function call(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body && JSON.stringify(body),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(text.trim() || response.statusText);
  return JSON.parse(text);
}

const full = (s) => (s.namespace ? s.namespace + "/" : "") + s.name;

function span(ms) {
  const s = Math.round(ms / 1000);
  if (s < 120) return s + " s";
  if (s < 7200) return Math.round(s / 60) + " min";
  return Math.round(s / 3600) + " h";
}

const ago = (time) => (time ? span(Date.now() - Date.parse(time)) : "");
const left = (time) => (time ? span(Date.parse(time) - Date.now()) : "");

function bar(value, most) {
  const b = element("span", { className: "bar" });
  b.style.width = most > 0 ? Math.round((80 * value) / most) + "px" : "0";
  return b;
}

const colour = { ready: "good", draining: "warn", down: "bad", gone: "quiet" };

function endpointRow(service, revision, e, most) {
  let state = e.state;
  if (e.cause) state += " (" + e.cause + ")";
  if (e.standby) state += ", standing by";
  if (e.drainUntil) state += ", until " + new Date(e.drainUntil).toLocaleTimeString();
  const order = element("button", { type: "button" }, e.draining ? "Take back" : "Drain");
  order.onclick = () => drain(service, revision, e);
  return element("tr", { title: e.probeError || "" },
    element("td", {}, e.name),
    element("td", {}, element("code", {}, e.address)),
    element("td", { className: colour[e.state] || "" }, state),
    element("td", { className: "n" }, e.inFlight + (e.limit ? " / " + e.limit : "")),
    element("td", { className: "n" }, e.queued),
    element("td", {}, bar(e.sessions, most), e.sessions),
    element("td", {}, e.state === "gone" ? null : order));
}

async function drain(service, revision, e) {
  const order = { service: { namespace: service.namespace, name: service.name }, revision: revision.name, endpoint: e.name };
  if (e.draining) order.cancel = true;
  else if (!confirm("Give " + e.name + " no new sessions? It keeps the ones that it has.")) return;
  await attempt(() => call("POST", "drain", order));
  await refresh();
}

function serviceView(s) {
  const shown = s.revisions.filter((r) => r.state !== "removed");
  const total = shown.reduce((sum, r) => sum + r.weight, 0);
  const all = shown.flatMap((r) => r.endpoints);
  const most = Math.max(0, ...all.map((e) => e.sessions));
  const body = element("tbody", {});
  for (const r of shown) {
    const share = total ? Math.round((1000 * r.weight) / total) / 10 + " %" : "–";
    const sessions = r.endpoints.reduce((sum, e) => sum + e.sessions, 0);
    const tags = r.tags && r.tags.length ? " · tags " + r.tags.join(", ") : "";
    body.append(element("tr", { className: "revision" },
      element("td", { colSpan: 5 }, r.name, " — weight " + r.weight + " (" + share + ")" + tags, r.state === "active" ? "" : " · " + r.state),
      element("td", { colSpan: 2 }, sessions + " sessions")));
    for (const e of r.endpoints) if (e.state !== "gone") body.append(endpointRow(s, r, e, most));
  }
  return element("div", {},
    element("h3", {}, full(s)),
    s.listeners ? element("p", { className: "quiet" }, s.listeners.map((l) => l.protocol + "://" + l.name + " at " + l.address).join(", ")) : null,
    element("table", {},
      element("thead", {}, element("tr", {}, ...["Endpoint", "Address", "State", "In flight", "Queued", "Sessions, all services", ""].map((h) =>
        element("th", { className: /flight|Queued/.test(h) ? "n" : "" }, h)))),
      body));
}

function storeView(s) {
  const e = $("store");
  const away = s.state === "open";
  e.className = "pill " + (away || s.mismatch ? "bad" : "good");
  e.textContent = "store: " + s.kind + (away ? " is away for " + ago(s.since) + " (" + s.error + ")" : ", " + s.bindings + " bindings known here");
  if (s.provisional) e.textContent += ", " + s.provisional + " provisional";
  if (s.mismatch) e.textContent += " — " + s.mismatch;
}

async function readiness() {
  const response = await fetch("readyz");
  $("ready").textContent = (await response.text()).trim();
  $("ready").className = "pill " + (response.ok ? "good" : "bad");
}

async function refresh() {
  const [services, store] = await Promise.all([call("GET", "services"), call("GET", "store"), readiness()]);
  storeView(store);
  $("services").replaceChildren(...services.map(serviceView));
  const choice = $("list").service;
  const names = services.map(full);
  if (names.join() !== [...choice.options].map((o) => o.value).join()) {
    choice.replaceChildren(...names.map((n) => element("option", { value: n }, n)));
  }
  $("updated").textContent = "as of " + new Date().toLocaleTimeString();
}

async function attempt(f) {
  try {
    return await f();
  } catch (error) {
    alert(error.message);
  }
}

$("explain").onsubmit = (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const question = { url: form.get("url").trim(), header: {}, client: form.get("client").trim() };
  const [name, ...value] = form.get("header").split(":");
  if (value.length) question.header[name.trim()] = [value.join(":").trim()];
  attempt(async () => {
    const e = await call("POST", "explain", question);
    $("steps").replaceChildren(...e.steps.map((s) => element("li", {}, s)));
    const next = e.listener && e.next ? ", if that is gone " + e.next.map((p) => p.endpoint).join(", then ") : "";
    $("answer").textContent = e.error ? "Error: " + e.error : "→ " + e.revision + "/" + e.endpoint + " at " + e.address + " (" + e.reason + ")" + next;
  });
};

function serviceRef(name) {
  const at = name.indexOf("/");
  return at < 0 ? { name } : { namespace: name.slice(0, at), name: name.slice(at + 1) };
}

function bindingRow(ref, b) {
  const forget = element("button", { type: "button" }, "Forget");
  const row = element("tr", {},
    ...[b.kind, b.key, b.tag || "", b.revision, b.endpoint || "", ago(b.made), left(b.ends)].map((v) => element("td", {}, v)),
    element("td", {}, forget));
  forget.onclick = () => attempt(async () => {
    await call("DELETE", "bindings", { service: ref, kind: b.kind, tag: b.tag, key: b.key });
    row.remove();
  });
  return row;
}

$("list").onsubmit = (event) => {
  event.preventDefault();
  const ref = serviceRef(event.target.service.value);
  attempt(async () => {
    const page = await call("GET", "bindings?" + new URLSearchParams({ namespace: ref.namespace || "", service: ref.name, limit: 100 }));
    $("bindings").hidden = false;
    $("bindings").tBodies[0].replaceChildren(...page.bindings.map((b) => bindingRow(ref, b)));
    $("more").textContent = page.next ? "The first " + page.bindings.length + "; limpet bindings lists all." : page.bindings.length + " bindings.";
  });
};

async function loop() {
  try {
    await refresh();
  } catch (error) {
    $("ready").textContent = "the gateway does not answer: " + error.message;
    $("ready").className = "pill bad";
  }
  setTimeout(loop, 2000);
}

loop();
