// What the page says: one line that screen readers hear, and what can be done where something went wrong.

const element = (id) => document.getElementById(id);

export function say(text, isError = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
  element("again").hidden = true;
}

// The sentence of an error. `again` is offered where the same question may be answered later.
export function sayError(error, again) {
  say(error.message, true);
  element("again").hidden = !(error.status === 0 || error.status === 429 || error.status >= 500);
  element("again").onclick = again;
}

export function sayBusy(seconds, attempt, attempts) {
  say(`The service is busy. Asking again in ${seconds} s (${attempt} of ${attempts}).`);
}

// Shows the form for the token; used(token) is called with what was typed in.
export function askToken(used) {
  const [form, field] = [element("token"), element("secret")];
  form.hidden = false;
  form.onsubmit = (event) => {
    event.preventDefault();
    form.hidden = true;
    used(field.value);
    field.value = "";
  };
  field.focus();
}
