// What a page does beyond links and forms. Everything works without it.
import { watchTimes } from "./times.js";
import { watchDialogs } from "./dialogs.js";
import { watchEvents } from "./events.js";
import { watchScheduleForms } from "./schedule-form.js";

// On a narrow screen the menu is wider than the page: bring into view where one is.
document.querySelector("nav.main [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
watchEvents();
watchTimes();
watchDialogs();
watchScheduleForms();
