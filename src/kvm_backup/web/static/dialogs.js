let openedFrom = null;

// Forms that are pages of their own open in a dialog: a link with hx-target="#dialog-body".
function opened(event) {
  const body = event.detail.target;
  if (body?.id !== "dialog-body") return;
  const dialog = document.getElementById("dialog");
  if (body.childElementCount === 0) {
    dialog.close();
  } else if (!dialog.open) {
    openedFrom = document.activeElement;
    dialog.showModal();
  }
}

// The browser gives the focus back to the link that a dialog was opened from. Where the page below was made anew
// meanwhile that link is gone: the one in its place takes it.
function focusWhereItWas() {
  const path = openedFrom?.getAttribute("hx-get");
  if (path && !openedFrom.isConnected) document.querySelector(`[hx-get="${CSS.escape(path)}"]`)?.focus();
  openedFrom = null;
}

function clicked(event) {
  const dialog = document.getElementById("dialog");
  if (event.target.closest?.("[data-closes-dialog]") && dialog?.open) {
    event.preventDefault();
    dialog.close();
  } else if (event.target === dialog) {
    // A click on the shade. What was typed is lost by that only if nothing was.
    const form = dialog.querySelector("form");
    if (!form || !form.dataset.changed) dialog.close();
  }
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
}

function pressed(event) {
  if (event.key !== "Escape") return;
  const menu = document.activeElement?.closest("details.menu[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
}

// What is told above the page is told in an open dialog, too, which hides the page.
function told(event) {
  const messages = event.detail.target;
  const dialog = document.getElementById("dialog");
  if (messages?.id !== "messages" || !dialog?.open) return;
  for (const before of dialog.querySelectorAll(".told")) before.remove();
  for (const message of messages.children) {
    const copy = message.cloneNode(true);
    copy.classList.add("told");
    (dialog.querySelector("form") ?? document.getElementById("dialog-body")).prepend(copy);
    copy.scrollIntoView({ block: "nearest" });
  }
}

export function watchDialogs() {
  document.addEventListener("htmx:afterSwap", opened);
  document.addEventListener("htmx:afterSwap", told);
  document.addEventListener("click", clicked);
  document.addEventListener("keydown", pressed);
  document.addEventListener("input", (event) => {
    if (event.target.form) event.target.form.dataset.changed = "yes";
  });
  // Escape closes a form in which nothing was typed; a second one closes it all the same.
  document.getElementById("dialog")?.addEventListener("cancel", (event) => {
    if (event.target.querySelector("form[data-changed]")) event.preventDefault();
  });
  document.getElementById("dialog")?.addEventListener("close", () => {
    document.getElementById("dialog-body").replaceChildren();
    focusWhereItWas();
  });
}
