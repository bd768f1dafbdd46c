// Lists, kept equal to what the server says, the latest first. An update returns the first element that is new, and
// sentences about what changed.
import { $, $$, element, put } from './page.js';
import { Card } from './card.js';
import { exactTime, inWords, timeOfDay } from './format.js';
import { happened, say, text } from './sentences.js';

export const PAGE = 50; // entries before "Show more"
const stillness = matchMedia('(prefers-reduced-motion: reduce)');
const latestFirst = (items, key) => items.toSorted((a, b) => (a[key] < b[key] ? 1 : a[key] > b[key] ? -1 : 0));

/** Cards. Those that stand do not move under a finger. */
export class CardList {
	#place;
	#order;
	#cards = new Map();
	isFilled = false;
	wanted = PAGE;

	/** `order` names the time by which the latest comes first. */
	constructor(name, order) {
		this.#place = $(`[data-list=${name}]`);
		this.#order = order;
	}

	get length() { return this.#cards.size; }
	get(id) { return this.#cards.get(id); }

	/** What is missing from a whole list has ended; else it may stand beyond its end. */
	update(sessions, now, isWhole) {
		const gone = new Map(this.#cards), news = [];
		$$('.ghost', this.#place).forEach((ghost) => ghost.remove());
		this.isFilled = true;
		let before, first;
		for (const session of latestFirst(sessions, this.#order)) {
			let card = this.get(session.id);
			gone.delete(session.id);
			if (card) card.update(session, now);
			else {
				card = new Card(session, now);
				first ??= card.element;
				news.push((session.ended_at ? say.ended : say.began)(card.name));
				this.#cards.set(session.id, card);
				const item = element('li', {}, card.element);
				if (before) before.after(item);
				else this.#place.prepend(item);
			}
			before = card.element.parentElement;
		}
		for (const card of gone.values()) {
			const { name, message, session: { ended_at: wasOver } } = card;
			if (isWhole && !wasOver && message.textContent !== text.goneMeanwhile) news.push(say.ended(name));
			if (!card.isInUse) this.#drop(card);
			else if (isWhole) put(message, text.goneMeanwhile);
		}
		return { first, news };
	}

	clear() {
		this.#cards.forEach((card) => this.#drop(card));
	}

	/** Lets a card go that has ended; the focus moves on. */
	async end(card, otherwise) {
		const all = $$('li:not(.leaving) > .card', this.#place), i = all.indexOf(card.element);
		(all[i + 1] ?? all[i - 1] ?? otherwise).focus();
		this.#cards.delete(card.session.id);
		const item = card.element.parentElement;
		item.classList.add('leaving');
		const frames = [{ blockSize: `${item.offsetHeight}px` }, { blockSize: 0, marginBlockEnd: '-.75rem', opacity: 0 }];
		await item.animate(frames, { duration: stillness.matches ? 0 : 220, easing: 'ease-out' }).finished;
		item.remove();
	}

	#drop(card) {
		card.element.parentElement.remove();
		this.#cards.delete(card.session.id);
	}
}

/** What happened, by day. */
export class Activity {
	#place = $('[data-list=activity]');
	#shown;
	isFilled = false;
	wanted = PAGE;

	get length() { return $$('li', this.#place).length; }

	update(events, now) {
		const lines = latestFirst(events, 'occurred_at').map((event) => inWords(event, now));
		const shown = lines.map(({ id, day }) => id + day).join(), news = [], parts = [];
		this.isFilled = true;
		if (shown === this.#shown) return { news }; // a selection in it stays
		this.#shown = shown;
		let first, day, list;
		for (const line of lines) {
			const { id, type, occurred_at: at } = line, [sentence, more = ''] = happened[type](line);
			const item = element('li', { id, className: type.split('.')[1], tabIndex: -1 },
				element('time', { dateTime: at, title: exactTime(at) }, timeOfDay(at)),
				element('p', {}, sentence), element('p', { className: 'fine' }, more));
			if (day !== line.day) parts.push(element('h3', {}, day = line.day), list = element('ul'));
			list.append(item);
			if ($(`#${id}`)) continue;
			first ??= item;
			news.push(`${sentence}.`);
		}
		this.#place.replaceChildren(...parts);
		return { first, news };
	}

	clear() {
		this.#shown = '';
		this.#place.replaceChildren();
	}
}
