// The message under the controls, which screen readers hear, and what can be done where something went wrong.

const element = (id) => document.getElementById(id);

export function showMessage(text, isError = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
  element("again").hidden = true;
}

// The message of an error. `again` is offered where the same question may be answered later.
export function showError(error, again) {
  showMessage(error.message, true);
  element("again").hidden = !(error.status === 0 || error.status === 429 || error.status >= 500);
  element("again").onclick = again;
}

export function showBusy(seconds, attempt, attempts) {
  showMessage(`The service is busy. Asking again in ${seconds} s (${attempt} of ${attempts}).`);
}

// Shows the form for the token; use(token) is called with what was typed in.
export function askToken(use) {
  const [form, field] = [element("token"), element("secret")];
  form.hidden = false;
  form.onsubmit = (event) => {
    event.preventDefault();
    form.hidden = true;
    use(field.value);
    field.value = "";
  };
  field.focus();
}
