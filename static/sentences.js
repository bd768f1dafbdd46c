// All sentences: a translation is one more file with these exports. `{}` is where a time is put. Elements of the HTML
// name a key of `text`: as such, or by their tab or action.

/** The language, in the region the person prefers (12 or 24 hours). */
export const locale = navigator.languages.find((tag) => /^en\b/i.test(tag)) ?? 'en-GB';

export const text = {
	product: 'Sessions',
	title: 'Where you are signed in',
	lead: 'If you do not recognise a device, end its session.',
	anonymous: 'Anonymous visitor',
	anonymousLead: 'You are not signed in. This visit has a session of its own, on this device only.',
	'sign-out': 'Sign out',
	active: 'Active',
	ended: 'Ended',
	activity: 'Activity',
	thisDevice: 'This device',
	otherDevices: 'Other devices',
	endedSessions: 'Ended sessions',
	onlyHere: 'You are signed in only here.',
	noneEnded: 'No session has ended lately.',
	lately: 'What happened lately',
	nothing: 'Nothing has happened lately.',
	'show-more': 'Show more',
	loading: 'Loading your sessions…',
	end: 'End',
	cancel: 'Cancel',
	save: 'Save',
	leave: 'Cancel',
	details: 'Details',
	retry: 'Try now',
	signIn: 'Sign in',
	signInAgain: 'Sign in again',
	unknownDevice: 'Unknown device',
	unknownPlace: 'Place unknown',
	localNetwork: 'Local network',
	justNow: 'just now',
	lastUsed: 'Active {}',
	signedInAgo: 'Signed in {}',
	beganAgo: 'Began {}',
	endedAt: 'Ended {}',
	goneMeanwhile: 'This session has ended meanwhile.',
	notSignedIn: 'You are not signed in',
	wasSignedOut: 'You have been signed out',
	hasLeft: 'You have signed out',
	wayIn: 'Open the application, sign in there, and come back to this page.',
	reauthenticate: 'To end another session you must have signed in a short while ago.',
	uncertain: 'The server did not answer: this may or may not have been done.',
	refused: 'This page could not be loaded',
	away: 'The server cannot be reached',
	awayHow: 'This page tries again by itself.',
};

export const badges = { isNew: 'New', trusted: 'Remembered', soon: 'Expires soon' };

export const rows = {
	signedIn: 'Signed in', lastUsed: 'Last active', idle: 'Ends if not used by', absolute: 'Ends at the latest', ended: 'Ended',
	first: 'Address at sign-in', last: 'Latest address', browser: 'Browser', system: 'System', agent: 'User agent', id: 'Session id',
};

const many = (count, before = '') => `${count} ${before}session${count === 1 ? '' : 's'}`;
const at = (name, place) => (place ? `${name} in ${place}` : name);

export const say = {
	end: (name, place) => `End ${at(name, place)}`,
	rename: (name) => `Rename ${name}`,
	nameFor: (name) => `Name for ${name}`,
	detailsOf: (name) => `Details of ${name}`,
	renamed: (name) => `Now shown as ${name}.`,
	began: (name) => `Signed in on ${name}.`,
	ended: (name) => `The session on ${name} has ended.`,
	allEnded: (count) => `Ended ${many(count, 'other ')}.`,
	shown: (count) => `${count} shown.`,
	endAll: (count) => `End ${count > 1 ? 'all ' : ''}${many(count, 'other ')}`,
	failed: (detail) => `That was not done. ${detail}`,
	request: (id) => `Request ${id}`,
	stale: (isOnline, time) =>
		`${isOnline ? `${text.away}.` : 'You are offline.'} This is how it was at ${time}.`,
};

export const question = {
	end: (name, place) => [`End the session on ${at(name, place)}?`,
		'It is signed out at once. Whoever uses it has to sign in again.', 'End session'],
	endAll: (count) => [`${say.endAll(count)}?`, 'This device stays signed in.', `End ${many(count)}`],
};

/** Why nothing is shown, by the code of a 401. */
export const signedOut = {
	left: 'The session on this device has ended.',
	no_session: 'Sign in to see where your account is in use.',
	invalid_token: 'The sign-in of this browser is not valid any more.',
	token_replaced: 'This browser holds an old key of your session.',
	ambiguous_cookie: 'This browser sent two different sessions. Delete the cookies of this site and sign in again.',
};

/** How a session ended. `figure` is the policy's time ("7 days"), if known. */
export function howEnded(reason, actor, figure = 'a long time') {
	const who = { user: 'you', operator: 'an operator' }[actor] ?? 'the application';
	const by = /^(app|operator)$/.test(actor) ? ` By ${who}.` : '';
	const byPerson = {
		manual: 'You ended this session from another device.',
		logout: 'You signed out on this device.',
		logout_all: 'You ended all other sessions.',
	};
	const byAny = {
		session_limit_exceeded: 'Ended because you signed in on more devices than your account allows.',
		idle_timeout: `Ended after it was not used for ${figure}.`,
		absolute_timeout: `Ended because ${figure} had passed since sign-in.`,
		user_blocked: `Ended because the account was locked.${by}`,
		credentials_changed: `Ended because your sign-in details were changed.${by}`,
		token_reuse: "Ended to protect you: an old copy of this session's key was used again.",
	};
	return (actor === 'user' && byPerson[reason]) || (byAny[reason] ?? `Ended by ${who}${reason ? `: "${reason}"` : ''}.`);
}

const signedIn = ({ user_id: user, device, where }) => [`${user ? 'Signed in' : 'Visit began'} on ${device}`, where];
const over = ({ device, reason, ended_by: actor }) => [`Session on ${device} ended`, howEnded(reason, actor)];

/** What happened, by the type of its event: a sentence, and what more there is to say. */
export const happened = {
	'session.created': signedIn,
	'session.authenticated': signedIn,
	'session.revoked': over,
	'session.evicted': over,
	'session.expired': over,
	'session.expiring': ({ device, deadline, until }) => [`Session on ${device} will end soon`, `${rows[deadline]} ${until}`],
	'session.activity': ({ device, ip_address: address }) => [`${device} used from another address`, address],
	'session.suspicious': ({ device }) => ["An old copy of a session's key was used", device],
	'session.revocation_failed': ({ count, explanation }) =>
		[`Ending a session was refused${count > 1 ? ` (${count} times)` : ''}`, explanation],
	'user.sessions_revoked': ({ session_count: count, except_session_id: kept, reason, ended_by: actor }) =>
		[`All ${kept ? 'other ' : ''}sessions ended (${count})`, actor === 'user' ? '' : howEnded(reason, actor)],
	'user.blocked': () => ['Account locked'],
	'device.new': ({ device, where }) => [`New device: ${device}`, where],
};
