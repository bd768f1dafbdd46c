// Times, places and devices in words.
import { locale, text } from './sentences.js';

const UNITS = { year: 31557600e3, month: 2629800e3, day: 86400e3, hour: 3600e3, minute: 60e3, second: 1e3 };
const relative = new Intl.RelativeTimeFormat(locale, { numeric: 'auto' });
const countries = new Intl.DisplayNames(locale, { type: 'region' });
const time = (options) => (at) => new Date(at).toLocaleString(locale, options);
const fullDate = time({ dateStyle: 'full' });
export const timeOfDay = time({ timeStyle: 'short' });
export const shortTime = time({ dateStyle: 'medium', timeStyle: 'short' });
export const exactTime = time({ dateStyle: 'full', timeStyle: 'long' });

export const signedInAt = (session) => session.authenticated_at ?? session.created_at;

/** Those of the calendar, so that "yesterday" is true. */
const daysBetween = (iso, now) => Math.round((new Date(now).setHours(12) - new Date(iso).setHours(12)) / UNITS.day);

/** "3 minutes ago". */
export function timeAgo(iso, now) {
	const past = now - Date.parse(iso);
	if (past < UNITS.minute) return text.justNow;
	const unit = Object.keys(UNITS).find((name) => past >= UNITS[name]);
	return relative.format(-(unit === 'day' ? daysBetween(iso, now) : Math.floor(past / UNITS[unit])), unit);
}

/** "today", "yesterday", or the date. */
function dayName(iso, now) {
	const days = daysBetween(iso, now);
	return days > 1 ? fullDate(iso) : relative.format(-days, 'day');
}

/** The policy's figure ("7 days") behind a deadline. */
export function figure(session, reason, endedAt) {
	const ms = Date.parse(endedAt) - Date.parse(reason === 'idle_timeout' ? session.last_activity_at : signedInAt(session));
	const unit = ['day', 'hour', 'minute', 'second'].find((name) => Math.abs(Math.round(ms / UNITS[name]) * UNITS[name] / ms - 1) < 0.03);
	return unit && Math.round(ms / UNITS[unit]).toLocaleString(locale, { style: 'unit', unit, unitDisplay: 'long' });
}

/** What a stranger wrote: no direction overrides, and kept apart if it runs right to left. */
export function foreign(value) {
	const plain = String(value).replace(/[\u202a-\u202e\u2066-\u2069]/g, '');
	return /[\u0590-\u08ff\ufb1d-\ufefc]/.test(plain) ? `\u2068${plain}\u2069` : plain;
}

export const deviceName = ({ name, device_info: info }) => foreign(name || info || text.unknownDevice);

/** "Zürich, Switzerland", or nothing. */
export function placeName({ place }) {
	let country = place?.country;
	try { country &&= countries.of(country); } catch { /* not a code: shown as it is */ }
	return [place?.city, country].filter(Boolean).map(foreign).join(', ');
}

export const placeOrWhy = (session) => placeName(session)
	|| (/^(127\.|10\.|192\.168\.|::1$|f[cd]|fe80:)/i.test(session.ip_address) ? text.localNetwork : text.unknownPlace);

/** An event with what its sentence needs; its location is "Zürich, CH". */
export function inWords(event, now) {
	const { location, ip_address: address, reason, data, occurred_at: at } = event, [, city, country] = /^(?:(.*), )?(..)$/.exec(location) ?? [];
	return {
		...data,
		...event,
		day: dayName(at, now),
		device: deviceName(event),
		where: [placeOrWhy({ place: { city, country }, ip_address: address }), address].filter(Boolean).join(' · '),
		reason: reason && foreign(reason),
		until: shortTime(data?.expires_at),
	};
}

export function iconOf({ device }) {
	const type = device?.is_bot ? 'program' : device?.type;
	if (/^(tv|console)$/.test(type)) return 'desktop';
	return /^(desktop|phone|tablet|program)$/.test(type) ? type : 'unknown';
}

/** The badges that say something about this session now. */
export function badgesOf(session, now) {
	const ends = Date.parse(session.expires_at), signedIn = signedInAt(session);
	const life = ends - Date.parse(session.expires_at === session.absolute_expires_at ? signedIn : session.last_activity_at);
	const says = {
		isNew: !session.is_current && now - Date.parse(signedIn) < UNITS.day,
		trusted: session.is_trusted,
		soon: life > 2 * UNITS.day && ends - now < UNITS.day,
	};
	return session.ended_at ? [] : Object.keys(says).filter((name) => says[name]);
}
