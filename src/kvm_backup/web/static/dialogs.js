// Forms that are pages of their own open in a dialog: a link with hx-target="#dialog-body".
function opened(event) {
  const body = event.detail.target;
  if (body?.id !== "dialog-body") return;
  const dialog = document.getElementById("dialog");
  if (body.childElementCount === 0) {
    dialog.close();
  } else if (!dialog.open) {
    dialog.showModal();
  }
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

export function watchDialogs() {
  document.addEventListener("htmx:afterSwap", opened);
  document.addEventListener("click", clicked);
  document.addEventListener("keydown", pressed);
  document.addEventListener("input", (event) => {
    if (event.target.form) event.target.form.dataset.changed = "yes";
  });
  document.getElementById("dialog")?.addEventListener("close", () => {
    document.getElementById("dialog-body").replaceChildren();
  });
}
