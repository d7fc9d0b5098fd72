// Keeps the page up to date: when the server says that something changed, the page is fetched again and its <main> replaces
// the present one. Times are shown in the reader's own time zone.
"use strict";

const language = document.documentElement.lang;
const clock = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });
const zones = new Intl.DateTimeFormat(language, { timeZoneName: "short" });

// zone names the reader's time zone, as it is called at that moment.
const zone = (at) => zones.formatToParts(at).find((part) => part.type === "timeZoneName").value;

// localTimes turns the server's UTC into the reader's time zone. The title has both.
function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const local = clock.format(at) + " " + zone(at);
    if (time.classList.contains("when")) time.textContent = local;
    time.title = local + " · " + at.toISOString().replace("T", " ").replace(/\.\d+Z$/, " UTC");
  }
}

// localAxis does the same for the axis of a plot.
function localAxis(root) {
  for (const text of root.querySelectorAll("svg text[data-at]")) {
    const at = new Date(text.dataset.at);
    const seconds = text.textContent.length > 5 ? "2-digit" : undefined;
    text.textContent = at.toLocaleTimeString(language, { hour: "2-digit", minute: "2-digit", second: seconds, hourCycle: "h23" });
  }
  for (const text of root.querySelectorAll("svg .zone")) text.textContent = zone(new Date());
}

// path returns a selector that finds an element again in the next version of the page.
function path(element) {
  if (element.id) return "#" + CSS.escape(element.id);
  const parent = element.parentElement;
  if (!parent || element.tagName === "MAIN") return "main";
  const same = Array.prototype.indexOf.call(parent.children, element) + 1;
  return path(parent) + " > :nth-child(" + same + ")";
}

// busy reports whether the reader is typing or selecting something that a new page would undo.
function busy() {
  const at = document.activeElement;
  if (at && at.closest("main") && /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName)) return true;
  if (document.querySelector("main dialog[open]")) return true;
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed && selection.anchorNode && document.querySelector("main").contains(selection.anchorNode));
}

let asking = false;
let again = false;

async function refresh() {
  if (document.hidden || busy()) { again = true; return; }
  if (asking) { again = true; return; }
  asking = true;
  again = false;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
    if (answer.redirected || !(answer.headers.get("Content-Type") || "").startsWith("text/html")) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (busy()) { again = true; return; }
    swap(fresh);
  } catch {
    again = true; // the server does not answer: the stream says when it is back
  } finally {
    asking = false;
  }
}

function swap(fresh) {
  const main = document.querySelector("main");
  const next = fresh.querySelector("main");
  if (!main || !next) return;
  const open = [...main.querySelectorAll("details")].map((d) => [path(d), d.open]);
  const focus = main.contains(document.activeElement) ? path(document.activeElement) : "";
  localTimes(next);
  localAxis(next);
  main.replaceChildren(...next.childNodes);
  main.dataset.mark = next.dataset.mark || "";
  for (const [where, was] of open) {
    const details = main.querySelector(where) || document.querySelector(where);
    if (details && details.tagName === "DETAILS") details.open = was;
  }
  if (focus) document.querySelector(focus)?.focus({ preventScroll: true });
  const footer = fresh.querySelector("footer");
  if (footer) {
    localTimes(footer);
    document.querySelector("footer")?.replaceChildren(...footer.childNodes);
  }
  document.title = fresh.title;
}

function follow() {
  const where = document.body.dataset.events;
  if (!where || !window.EventSource) return;
  const source = new EventSource(where);
  const sign = document.getElementById("live");
  const show = (on) => { if (sign) { sign.hidden = false; sign.classList.toggle("on", on); sign.textContent = on ? sign.dataset.live : sign.dataset.lost; } };
  source.addEventListener("open", () => show(true));
  source.addEventListener("changed", (news) => {
    if (news.lastEventId !== document.querySelector("main").dataset.mark) refresh();
  });
  source.addEventListener("error", () => {
    show(false);
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 30000);
  });
}

// The button copies the link where the browser allows it; else the link can be selected.
for (const button of document.querySelectorAll("button[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = button.dataset.done;
  });
}

document.addEventListener("visibilitychange", () => { if (!document.hidden && again) refresh(); });
document.addEventListener("focusout", () => setTimeout(() => { if (again) refresh(); }, 0));
setInterval(() => { if (again) refresh(); }, 5000);
// Time alone changes a page: NATS does not tell that a token has expired.
if (document.body.dataset.events) setInterval(refresh, 30000);
localTimes(document);
localAxis(document);
follow();
