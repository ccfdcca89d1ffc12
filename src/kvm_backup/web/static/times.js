// Times in the browser's own format and zone; relative ones stay fresh.
const REFRESH = 10_000;
const STEPS = [["day", 86_400], ["hour", 3_600], ["minute", 60]];

const pageLanguage = document.documentElement.lang;
// The user's own variant of the page's language (fr-CA), where the browser names one.
const locale = navigator.languages.find((tag) => tag.split("-")[0] === pageLanguage) ?? pageLanguage;
const short = new Intl.DateTimeFormat(locale, { dateStyle: "short", timeStyle: "short" });
const toTheSecond = new Intl.DateTimeFormat(locale, { dateStyle: "short", timeStyle: "medium" });
const long = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "long" });
const relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto", style: "short" });

function distance(moment) {
  const seconds = (moment - Date.now()) / 1000;
  for (const [unit, length] of STEPS) {
    // Up to two days are told in hours, as the server does.
    if (Math.abs(seconds) >= (unit === "day" ? 2 * length : length)) {
      return relative.format(Math.trunc(seconds / length), unit);
    }
  }
  // As the server does: what is to come is never told too early.
  return relative.format(10 * (seconds > 0 ? Math.ceil(seconds / 10) : Math.trunc(seconds / 10)), "second");
}

function show(element) {
  const moment = new Date(element.dateTime);
  if (Number.isNaN(moment.valueOf())) return;
  if (element.dataset.time === "ago") {
    element.textContent = distance(moment);
  } else {
    element.textContent = (element.dataset.time === "second" ? toTheSecond : short).format(moment);
  }
  if (!element.dataset.titled) {
    // Both clocks: where the reader is, and where the schedules are.
    element.title = `${long.format(moment)}\n${element.title}`;
    element.dataset.titled = "yes";
  }
}

function showAll(within, kind = "") {
  const wanted = `time[data-time${kind}]`;
  if (within.matches?.(wanted)) show(within);
  within.querySelectorAll(wanted).forEach(show);
}

export function watchTimes() {
  showAll(document);
  document.addEventListener("htmx:load", (event) => showAll(event.detail.elt));
  setInterval(() => showAll(document, "='ago'"), REFRESH);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) showAll(document, "='ago'");
  });
}
