// One session as a card. It is updated in place: focus, open details and an edit survive a refresh.
import { $, element, put } from './page.js';
import * as format from './format.js';
import { badges, howEnded, rows, say, text } from './sentences.js';

export class Card {
	/** Set while a dialog or a call is about it: a refresh does not take it away. */
	isHeld = false;
	#rows = '';

	constructor(session, now) {
		this.element = $('#card').content.cloneNode(true).firstElementChild;
		this.element.dataset.sessionId = session.id;
		this.#form.addEventListener('keydown', ({ key }) => key === 'Escape' && this.stopRenaming());
		this.#form.addEventListener('submit', (event) => event.preventDefault());
		this.update(session, now);
	}

	get name() { return format.deviceName(this.session); }
	get place() { return format.placeName(this.session); }
	/** Where to say what went wrong: with the card, and with its new name. */
	get message() { return this.#$('.message'); }
	get refusal() { return this.#$('.refusal'); }
	get input() { return this.#$('input'); }
	get isInUse() { return this.isHeld || !this.#form.hidden || this.element.contains(document.activeElement); }

	update(session, now) {
		this.session = session;
		const { name, place } = this, isEnded = session.ended_at !== null;
		const reason = session.revoked_reason && format.foreign(session.revoked_reason);
		const end = this.#$('.end'), pencil = this.#$('.pencil');
		this.element.toggleAttribute('data-current', session.is_current);
		this.#$('use').setAttribute('href', `#i-${format.iconOf(session)}`);
		put(this.#$('h3 bdi'), name);
		put(this.#$('.device'), session.name && (session.device_info ?? text.unknownDevice));
		put(this.#$('.sentence'), isEnded && howEnded(reason, session.ended_by, format.figure(session, reason, session.ended_at)));
		put(this.#$('.place span'), format.placeOrWhy(session));
		put(this.#$('.address'), session.ip_address);
		this.#$('summary').ariaLabel = say.detailsOf(name);
		this.element.ariaLabel = name;
		pencil.hidden = isEnded;
		pencil.ariaLabel = say.rename(name);
		end.hidden = isEnded || session.is_current;
		end.ariaLabel = say.end(name, place);
		this.#$('.badges').replaceChildren(...format.badgesOf(session, now)
			.flatMap((badge) => [element('span', { className: `badge ${badge}` }, badges[badge]), ' ']));
		this.#showRows();
		this.#showTime(now);
	}

	#showTime(now) {
		const s = this.session;
		const [sentence, iso] = s.ended_at ? [text.endedAt, s.ended_at]
			: s.is_current ? [s.user_id ? text.signedInAgo : text.beganAgo, format.signedInAt(s)] : [text.lastUsed, s.last_activity_at];
		const [before, after] = sentence.split('{}'), exact = format.exactTime(iso);
		this.#$('.when').replaceChildren(before, element('time', { dateTime: iso, title: exact }, format.timeAgo(iso, now)),
			element('span', { className: 'unseen' }, `, ${exact}`), after);
	}

	startRenaming() {
		const { input } = this;
		this.#edit(true);
		put(this.refusal, '');
		input.value = this.session.name ?? '';
		input.ariaLabel = say.nameFor(this.session.device_info ?? text.unknownDevice);
		input.focus();
		input.select();
	}

	stopRenaming() {
		this.#edit(false);
		this.#$('.pencil').focus();
	}

	get #form() { return this.#$('form'); }
	#$(selector) { return $(selector, this.element); }

	#edit(isOn) {
		this.#form.hidden = !isOn;
		this.#$('.title').hidden = isOn;
	}

	#showRows() {
		const s = this.session, device = s.device ?? {}, time = format.exactTime;
		const end = s.ended_at ? 'ended' : s.expires_at === s.absolute_expires_at ? 'absolute' : 'idle';
		const shown = Object.entries({
			signedIn: time(format.signedInAt(s)),
			lastUsed: time(s.last_activity_at),
			[end]: time(s.ended_at ?? s.expires_at),
			first: s.ip_address,
			last: s.last_ip_address,
			browser: [device.browser, device.browser_version].join(' ').trim(),
			system: [device.os, device.os_version].join(' ').trim(),
			agent: s.user_agent,
			id: s.id,
		}).filter(([, value]) => value);
		if (this.#rows === String(shown)) return; // a selection in it stays
		this.#rows = String(shown);
		this.#$('dl').replaceChildren(...shown.map(([name, value]) =>
			element('div', {}, element('dt', {}, rows[name]), element('dd', {}, element('bdi', {}, value)))));
	}
}
