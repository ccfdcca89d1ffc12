// What a page does beyond links and forms. Everything works without it.
import { watchTimes } from "./times.js";
import { watchDialogs } from "./dialogs.js";
import { watchEvents } from "./events.js";
import { watchScheduleForms } from "./schedule-form.js";

watchEvents();
watchTimes();
watchDialogs();
watchScheduleForms();
