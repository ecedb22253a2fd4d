// Makes the pages better, never necessary: news without loading again, local times, a name that is remembered.
// What a person is doing is never disturbed: no focus moves, no open part closes, no half-filled form changes.

const PAUSE = 4000; // milliseconds between two looks
const LONGEST_PAUSE = 60000;
const TICK = 10000; // between two looks at the clock
const live = document.getElementById("live");
const news = document.getElementById("news");
const connection = document.getElementById("connection");

const remembered = {
  get(key) { try { return localStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { localStorage.setItem(key, value); } catch { /* not kept, then */ } },
};

// ---- Times: UTC as written; on demand as the reader's clock says, and always both in the title.
const clock = document.getElementById("clock");
let local = remembered.get("shf-clock") === "local";

function localTime(date) {
  return date.toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

function ago(date) {
  const seconds = Math.round((Date.now() - date.getTime()) / 1000);
  const size = Math.abs(seconds);
  const [unit, length] = size < 90 ? ["second", 1] : size < 5400 ? ["minute", 60] : size < 129600 ? ["hour", 3600] : ["day", 86400];
  return new Intl.RelativeTimeFormat("en", { numeric: "always" }).format(-Math.round(seconds / length), unit);
}

function showTimes(root) {
  for (const time of root.querySelectorAll("time")) {
    const date = new Date(time.dateTime);
    if (time.dataset.utc === undefined) time.dataset.utc = time.textContent;
    const shown = local ? localTime(date) : time.dataset.utc;
    const distance = ago(date);
    const text = time.dataset.near === undefined ? shown : `${shown} (${distance})`;
    if (time.textContent !== text) time.textContent = text; // the same again would drop what is selected
    time.title = `${local ? time.dataset.utc : `${localTime(date)} here`}, ${distance}`;
  }
}

function showClock() {
  clock.hidden = false;
  clock.textContent = local ? "Show UTC" : "Show local times";
  document.getElementById("zone").textContent = local ? ", shown in your time zone" : "";
  showTimes(document);
}

clock.addEventListener("click", () => {
  local = !local;
  remembered.set("shf-clock", local ? "local" : "utc");
  showClock();
});

// ---- A name that was given once is offered again.
function offerName(root) {
  for (const field of root.querySelectorAll("input[data-remember]")) {
    const known = remembered.get("shf-name");
    if (known && !field.value) { field.value = known; field.defaultValue = known; }
  }
}

document.addEventListener("submit", (event) => {
  const field = event.target.querySelector("input[data-remember]");
  if (field && field.value) remembered.set("shf-name", field.value);
});

// ---- News.
let tag = null;
let failures = 0;
let timer = null;
const served = new Map(); // what the server said of each part, before we changed anything in it

function parts(root) {
  return [...root.querySelectorAll("[data-live]")];
}

function inUse(part) {
  const focus = document.activeElement;
  if (part.contains(focus) && focus.matches("input, select, textarea, button, summary")) return true;
  return [...part.querySelectorAll("input:not([type=hidden]), select")].some((field) =>
    field.matches("select") ? field.selectedIndex > 0 : field.value !== field.defaultValue);
}

function replace(part, fresh) {
  const open = new Set([...part.querySelectorAll("details[open]")].map((each) => each.id));
  const heldFocus = part.contains(document.activeElement) ? document.activeElement : null;
  const link = heldFocus && heldFocus.getAttribute("href");
  const copy = document.importNode(fresh, true);
  for (const each of copy.querySelectorAll("details")) if (open.has(each.id)) each.open = true;
  part.replaceWith(copy);
  offerName(copy);
  showTimes(copy);
  copy.classList.add("changed");
  if (link) [...copy.querySelectorAll("a")].find((each) => each.getAttribute("href") === link)?.focus({ preventScroll: true });
  return copy;
}

function heading(part) {
  return (part.querySelector("h2")?.textContent || part.getAttribute("aria-label") || "").trim();
}

function show(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  const changed = [];
  for (const part of parts(live)) {
    const name = part.dataset.live;
    const next = fresh.querySelector(`[data-live="${name}"]`);
    if (!next || served.get(name) === next.outerHTML) continue;
    if (inUse(part)) { tag = null; continue; } // looked at again when the person is done with it
    served.set(name, next.outerHTML);
    const shown = replace(part, next);
    changed.push(name === "state" ? shown.querySelector(".badge").textContent.trim() : heading(shown));
  }
  if (changed.length) {
    news.textContent = `Changed: ${changed.join(", ")}`;
    reloadPlot();
  }
}

function reloadPlot() {
  const picture = live.querySelector("img.plot");
  if (!picture || !picture.complete) return;
  for (const [element, name] of [[live.querySelector("picture source"), "srcset"], [picture, "src"]]) {
    const again = new URL(element.getAttribute(name), location.href);
    again.searchParams.set("at", String(Date.now()));
    element.setAttribute(name, again.pathname + again.search);
  }
}

function tell(text, link) {
  connection.textContent = text;
  if (link) {
    const way = document.createElement("a");
    way.href = link;
    way.textContent = " Sign in again";
    connection.append(way);
  }
  connection.hidden = !text;
}

async function look() {
  timer = null;
  try {
    const headers = { Accept: "text/html" };
    if (tag) headers["If-None-Match"] = tag;
    const answer = await fetch(live.dataset.from, { headers, cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(10000) });
    if (answer.status === 401 || answer.status === 403) {
      tell("You are not signed in any more; what is shown is old.", live.dataset.login);
      return;
    }
    if (answer.status !== 304) {
      if (!answer.ok) throw new Error(String(answer.status));
      const html = await answer.text();
      tag = answer.headers.get("ETag");
      show(html);
    }
    failures = 0;
    tell("");
  } catch {
    failures += 1;
    if (failures === 2) tell(`No answer from the fabric since ${new Date().toLocaleTimeString()}: what is shown may be old. It is asked again.`);
  }
  lookLater();
}

function lookLater() {
  if (timer !== null || document.hidden) return;
  timer = setTimeout(look, Math.min(LONGEST_PAUSE, PAUSE * 2 ** Math.min(failures, 4)));
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) { clearTimeout(timer); timer = null; } else if (live && timer === null) look();
});

if (live) for (const part of parts(live)) served.set(part.dataset.live, part.outerHTML);
addEventListener("online", () => { if (live) { clearTimeout(timer); look(); } });
offerName(document);
showClock();
setInterval(() => { if (!document.hidden) showTimes(document); }, TICK);
if (live) lookLater();
