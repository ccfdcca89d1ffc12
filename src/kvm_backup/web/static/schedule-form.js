// The form of a schedule: VMs that are chosen stay while others are searched. The server does the same without this.
function picker(element) {
  return element.closest?.("[data-vm-picker]");
}

function chips(within) {
  return [...within.querySelectorAll("[data-chips] input")];
}

function found(within) {
  return [...within.querySelectorAll("[data-vm-results] input")];
}

function count(within) {
  const line = within.querySelector("[data-count]");
  const number = chips(within).length;
  const { none, one, many } = line.dataset;
  const text = number === 0 ? none : number === 1 ? one : many;
  const shown = new Intl.NumberFormat(document.documentElement.lang).format(number);
  line.textContent = text.replace("{count}", shown);
}

function choose(within, name) {
  if (chips(within).some((chip) => chip.value === name)) return;
  const made = within.querySelector("template[data-chip]").content.cloneNode(true);
  made.querySelector("input").value = name;
  made.querySelector(".chip-name").textContent = name;
  within.querySelector("[data-chips]").append(made);
}

function drop(within, name) {
  for (const chip of chips(within)) {
    if (chip.value === name) chip.closest(".chip").remove();
  }
}

function changed(event) {
  const box = event.target;
  const within = picker(box);
  if (!within || box.name !== "vms") return;
  if (box.closest("[data-chips]")) {
    const next = box.closest(".chip").nextElementSibling?.querySelector("input");
    drop(within, box.value);
    for (const other of found(within)) if (other.value === box.value) other.checked = false;
    (next ?? within.querySelector("input[type=search]")).focus();
  } else if (box.checked) {
    choose(within, box.value);
  } else {
    drop(within, box.value);
  }
  count(within);
}

function clicked(event) {
  const button = event.target.closest?.("[data-chooses-all], [data-adds-vm]");
  const within = button && picker(button);
  if (!within) return;
  event.preventDefault();
  if (button.matches("[data-adds-vm]")) {
    choose(within, button.value);
    const search = within.querySelector("input[type=search]");
    search.value = "";
    search.dispatchEvent(new Event("search"));
    search.focus();
  } else {
    for (const box of found(within)) {
      box.checked = true;
      choose(within, box.value);
    }
  }
  count(within);
  button.form.dataset.changed = "yes";
}

// Enter in the search is no wish to save.
function pressed(event) {
  if (event.key === "Enter" && event.target.matches?.("[data-vm-picker] input[type=search]")) event.preventDefault();
}

function swapped(event) {
  const results = event.detail.target;
  const within = results?.matches?.("[data-vm-results]") && picker(results);
  if (!within) return;
  const names = new Set(chips(within).map((chip) => chip.value));
  for (const box of found(within)) box.checked = names.has(box.value);
}

export function watchScheduleForms() {
  document.addEventListener("change", changed);
  document.addEventListener("click", clicked);
  document.addEventListener("keydown", pressed);
  document.addEventListener("htmx:afterSwap", swapped);
}
