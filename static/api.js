// The calls of the self plane, and its stream of events. The cookie travels by itself.

const MINE = 'v1/me/sessions';
const PAGE_MAX = 200; // the API's limit
const app = new URLSearchParams(location.search).get('app');
let skew = 0, stream, restsUntil = 0;
/** Whether a stream of events is open. */
export let isLive = false;

/** A refusal (RFC 9457), or with status 0 no answer at all. */
export class Problem extends Error {
	constructor(status, body = {}) {
		super(body.errors?.map(({ field, message }) => `${field}: ${message}`).join(' ') || (body.detail ?? `HTTP ${status}`));
		/** `passes`: the call may succeed later by itself. */
		Object.assign(this, { status, body, passes: !status || status === 429 || status >= 500 });
	}
}

/** The time by the server's Date header, as clocks here may be wrong. */
export const now = () => Date.now() + skew;

function address(path, query) {
	const url = new URL(path, document.baseURI);
	for (const [key, value] of Object.entries({ ...query, app })) if (value) url.searchParams.set(key, value);
	return url;
}

async function call(method, path, query, json) {
	const headers = json ? { 'Content-Type': 'application/json' } : {};
	let response, body;
	try {
		response = await fetch(address(path, query), { method, headers, body: JSON.stringify(json), signal: AbortSignal.timeout(15e3) });
		body = await response.text();
	} catch { throw new Problem(0); }
	const off = Date.parse(response.headers.get('Date')) - Date.now();
	skew = Math.abs(off) > 30e3 ? off : 0;
	try { body = JSON.parse(body || '{}'); } catch {
		throw new Problem(response.ok ? 0 : response.status); // something in between answered
	}
	if (!response.ok) throw new Problem(response.status, body);
	return body;
}

/** The first `count` of a list; `next_cursor` tells whether there are more. */
async function list(path, key, cursor, count, query) {
	const items = [];
	let page = {};
	do {
		page = await call('GET', path, { ...query, limit: Math.min(PAGE_MAX, count - items.length), [cursor]: page.next_cursor });
		items.push(...page[key]);
	} while (page.next_cursor && items.length < count);
	return { ...page, items };
}

export const listSessions = (status, count) => list(MINE, 'sessions', 'cursor', count, { status });
export const listEvents = (types, count) => list('v1/me/events', 'events', 'after', count, { types, order: 'newest' });
export const currentSession = () => call('GET', 'v1/session', { touch: 'false' });
export const endSession = (id) => call('DELETE', `${MINE}/${id}`);
export const endOthers = () => call('DELETE', MINE);
export const renameSession = (id, name) => call('PATCH', `${MINE}/${id}`, {}, { name });
export const signOut = () => call('DELETE', 'v1/session');

// Calls `onNews` when something happens, or may have while no stream was open: at its beginning and its end. A stream
// that was refused, or that ended with its session, is not asked for again at once.
export function listen(types, onNews) {
	if (stream || Date.now() < restsUntil || !globalThis.EventSource) return;
	const lose = (isForGood) => {
		if (isLive) onNews();
		isLive = false;
		if (!isForGood) return; // the browser connects again by itself
		hush();
		restsUntil = Date.now() + 25e3;
	};
	stream = new EventSource(address('v1/me/events'));
	stream.onopen = () => {
		isLive = true;
		onNews();
	};
	stream.onerror = ({ target }) => lose(target.readyState === EventSource.CLOSED);
	stream.addEventListener('end', lose);
	for (const type of ['reset', ...types]) stream.addEventListener(type, onNews);
}

export function hush() {
	stream?.close();
	stream = undefined;
	isLive = false;
}

/** Where to sign in and come back from, if that is http(s). */
export function signInLink({ body: { sign_in_url: given } }) {
	if (!given || !URL.canParse(given, document.baseURI)) return null;
	const url = new URL(given, document.baseURI);
	url.searchParams.set('return_to', location.href);
	return /^https?:$/.test(url.protocol) ? url.href : null;
}
