// What the buttons do, by their data-action; a card's buttons are given the card.
import * as api from './api.js';
import { $, announce, ask, element, put } from './page.js';
import { PAGE } from './list.js';
import { question, say, text } from './sentences.js';

export function actionsOn(page) {
	/** Makes a call that changes something. Resolves to the answer, or to nothing and `line` says why. */
	async function attempt(call, line) {
		put(line, '');
		try {
			return await call();
		} catch (problem) {
			if (problem.status === 401) return page.leave(problem);
			line.replaceChildren(...explain(problem));
			line.hidden = false;
			announce(line.textContent);
		} finally {
			page.changes += 1;
		}
	}

	function explain(problem) {
		if (!problem.status) return [text.uncertain];
		if (problem.body.code !== 'reauthentication_required') return [say.failed(problem.message)];
		const href = api.signInLink(problem);
		return [`${text.reauthenticate} `, href ? element('a', { href }, text.signInAgain) : text.wayIn];
	}

	return {
		async end(card) {
			const { name, place, session: { id } } = card;
			card.isHeld = true;
			if (await ask(question.end(name, place))) {
				card.element.ariaBusy = true;
				const isDone = await attempt(() => api.endSession(id), card.message);
				card.element.ariaBusy = false;
				if (isDone) {
					announce(say.ended(name));
					page.countOthers(page.others - 1);
					await page.lists.active.end(card, $('#others'));
				}
			}
			card.isHeld = false;
			page.refresh();
		},

		async 'end-all'() {
			if (!await ask(question.endAll(page.others))) return;
			const answer = await attempt(api.endOthers, $('#all .message'));
			if (answer) {
				announce(say.allEnded(answer.revoked_count));
				$('#others').focus();
				page.lists.active.clear();
			}
			page.refresh();
		},

		async 'sign-out'() {
			if (!await attempt(api.signOut, $('header .message'))) return;
			const after = await api.listSessions('active', 1).catch((problem) => problem); // it tells where to sign in
			page.leave(after.body ? after : new api.Problem(401), 'left');
		},

		rename: (card) => card.startRenaming(),
		leave: (card) => card.stopRenaming(),
		async save(card) {
			const name = card.input.value.trim() || null;
			const session = await attempt(() => api.renameSession(card.session.id, name), card.refusal);
			if (!session) return;
			card.update({ ...session, is_current: card.session.is_current }, api.now());
			card.stopRenaming();
			announce(say.renamed(card.name));
		},

		'show-more'() {
			page.lists[page.tab].wanted += PAGE;
			page.wantsMore = true;
			page.refresh();
		},

		retry: page.refresh,
	};
}
