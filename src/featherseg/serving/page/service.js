// What the page asks of the service: the token goes along, a refusal becomes its message, a busy one is waited for.

const TRIES = 5; // in all, where the service answers 429
const LONGEST_WAIT = 20; // seconds
const GONE = "The service does not answer. See whether `featherseg serve` still runs, then try again.";

let token = "";
try {
  token = sessionStorage.getItem("token") ?? "";
} catch { /* the browser keeps no data of this site: the token lasts as long as the page */ }

export class Refusal extends Error {
  constructor(message, status = 0, code = "") { // status 0: no answer at all
    super(message);
    Object.assign(this, { status, code });
  }
}

// The token of "#token=..." is kept for this tab and taken out of the address.
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  keepToken(given);
  history.replaceState(null, "", location.pathname + location.search);
}

export function keepToken(given) {
  token = given.trim();
  try {
    sessionStorage.setItem("token", token);
  } catch { /* as above */ }
}

export async function readModels() {
  return (await (await request("v1/models")).json()).models;
}

export async function readLimits() {
  return (await request("v1/limits")).json();
}

// -> the Response. onWait(seconds, attempt, attempts) is called where the service is busy; signal gives up.
export function segment(image, name, model, format, { signal, onWait }) {
  const body = new FormData();
  body.append("image", image, name);
  const query = new URLSearchParams({ format, model });
  return request(`v1/segment?${query}`, { method: "POST", body, signal }, onWait);
}

async function request(path, options = {}, onWait = () => {}) {
  for (let attempt = 1; ; attempt++) {
    const answer = await send(path, options);
    if (answer.ok) return answer;
    if (answer.status !== 429 || attempt === TRIES) throw await refusalOf(answer);
    const asked = Number(answer.headers.get("Retry-After") ?? 1);
    const seconds = Math.min(Number.isFinite(asked) ? Math.max(asked, 0) : 1, LONGEST_WAIT);
    onWait(seconds, attempt + 1, TRIES);
    await wait(seconds, options.signal);
  }
}

async function send(path, options) {
  const usable = /^[\x21-\x7e]+$/.test(token); // a header takes no other letters
  try {
    return await fetch(path, { ...options, headers: usable ? { Authorization: `Bearer ${token}` } : {} });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refusal(GONE);
  }
}

async function refusalOf(answer) {
  const record = await answer.json().catch(() => null);
  const { message, code } = record?.error ?? {};
  return new Refusal(message ?? `The service answered with status ${answer.status}.`, answer.status, code);
}

function wait(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}
