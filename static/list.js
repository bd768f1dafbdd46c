// A list of cards, kept equal to what the server says. Those that stand do not move under a finger.
import { $, $$, element, put } from './page.js';
import { Card } from './card.js';
import { text } from './sentences.js';

const stillness = matchMedia('(prefers-reduced-motion: reduce)');

export class CardList {
	#place;
	#order;
	#cards = new Map();
	isFilled = false;

	/** `order` names the time by which the latest comes first. */
	constructor(name, order) {
		this.#place = $(`[data-list=${name}]`);
		this.#order = order;
	}

	get cards() { return [...this.#cards.values()]; }
	get(id) { return this.#cards.get(id); }

	/** Takes over what the server says; returns the first card that is new. */
	update(sessions, now) {
		const ids = new Set(sessions.map(({ id }) => id)), key = this.#order;
		$$('.ghost', this.#place).forEach((ghost) => ghost.remove());
		this.isFilled = true;
		let before, first;
		for (const session of sessions.toSorted((a, b) => (a[key] < b[key] ? 1 : a[key] > b[key] ? -1 : 0))) {
			let card = this.get(session.id);
			if (card) card.update(session, now);
			else {
				card = new Card(session, now);
				first ??= card;
				this.#cards.set(session.id, card);
				const item = element('li', {}, card.element);
				if (before) before.after(item);
				else this.#place.prepend(item);
			}
			before = card.element.parentElement;
		}
		for (const card of this.cards.filter(({ session }) => !ids.has(session.id))) {
			if (card.isInUse) put(card.message, text.goneMeanwhile);
			else this.#drop(card);
		}
		return first;
	}

	clear() {
		this.cards.forEach((card) => this.#drop(card));
	}

	/** Lets a card go that has ended; the focus moves on. */
	async end(card, otherwise) {
		const all = $$('li:not(.leaving) > .card', this.#place), i = all.indexOf(card.element);
		(all[i + 1] ?? all[i - 1] ?? otherwise).focus();
		this.#cards.delete(card.session.id);
		const item = card.element.parentElement;
		if (!stillness.matches) {
			item.classList.add('leaving');
			const frames = [{ blockSize: `${item.offsetHeight}px` }, { blockSize: 0, marginBlockEnd: '-.75rem', opacity: 0 }];
			await item.animate(frames, { duration: 220, easing: 'ease-out' }).finished;
		}
		item.remove();
	}

	#drop(card) {
		card.element.parentElement.remove();
		this.#cards.delete(card.session.id);
	}
}
