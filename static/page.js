// The page as a whole: its state (loading, ready, signed-out, error: body[data-state]), the banner, the dialog, the
// announcer. Elements are filled only ever with text: strangers wrote part of it.
import { figure, foreign, shortTime } from './format.js';
import { howEnded, say, signedOut, text } from './sentences.js';
import { signInLink } from './api.js';

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

export function element(tag, properties, ...children) {
	const made = Object.assign(document.createElement(tag), properties);
	made.append(...children);
	return made;
}

/** Shows a text, or hides the element for none. An equal text is left alone. */
export function put(target, value) {
	target.hidden = !value;
	if (target.textContent !== value) target.textContent = value || '';
}

export function fillTexts(root) {
	for (const target of $$('[data-text], [data-tab], [data-action]', root)) {
		const { text: key, tab, action } = target.dataset;
		target.append(text[key ?? tab ?? action] ?? '');
	}
}

const dialog = $('dialog'), panel = $('#panel');

export function announce(sentence) {
	$('#announcer').textContent = sentence;
}

export function setState(state) {
	const isPanel = state === 'signed-out' || state === 'error';
	document.body.dataset.state = state;
	panel.hidden = !isPanel;
	$('#sessions').hidden = isPanel;
	$('main').ariaBusy = state === 'loading';
	document.title = isPanel ? $('h1', panel).textContent : text.title;
	if (state === 'loading') announce(text.loading);
}

/** Says since when nothing new came; without a time, all is well. */
export function showBanner(freshAt) {
	const line = $('aside p'), sentence = freshAt ? say.stale(navigator.onLine, shortTime(freshAt)) : '';
	if (line.textContent === sentence) return;
	$('aside').hidden = !sentence;
	put(line, sentence);
	announce(sentence);
}

/** Nothing can be shown: the server is away, or refuses. */
export function showError({ passes, message, body }) {
	showPanel('error', passes ? text.away : text.refused, passes ? text.awayHow : message, body?.request_id && say.request(body.request_id));
}

/** Nobody is signed in: why, and the way in. `known` is the session as last seen. */
export function showSignedOut(problem, known, code = problem.body.code) {
	const { ended_at: at, revoked_reason: reason, ended_by: actor } = problem.body;
	const link = signInLink(problem), isEnded = code === 'session_ended';
	const title = isEnded ? text.wasSignedOut : code === 'left' ? text.hasLeft : text.notSignedIn;
	const why = isEnded ? howEnded(reason && foreign(reason), actor, known && figure(known, reason, at)) : signedOut[code] ?? problem.message;
	showPanel('signed-out', title, link ? why : `${why} ${text.wayIn}`, isEnded && text.endedAt.replace('{}', shortTime(at)), link);
}

function showPanel(state, title, why, more, link) {
	const [heading, sentence, fine, anchor, retry] = panel.children;
	const isNew = panel.hidden || heading.textContent !== title;
	put(heading, title);
	put(sentence, why);
	put(fine, more);
	anchor.hidden = !link;
	anchor.href = link ?? '';
	retry.hidden = state !== 'error';
	dialog.close();
	showBanner();
	setState(state);
	if (isNew) heading.focus();
}

let answer; // takes the answer to the question that stands

// The event of a closed dialog comes late: the next question may stand by then, and it is not the one answered.
dialog.addEventListener('close', () => dialog.open || answer?.(dialog.returnValue === 'yes'));

/** Resolves to whether the person is sure. */
export function ask([title, sentence, confirm]) {
	answer?.(false);
	put($('h2', dialog), title);
	put($('p', dialog), sentence);
	put($('.danger', dialog), confirm);
	dialog.returnValue = '';
	dialog.showModal();
	return new Promise((resolve) => { answer = resolve; });
}
