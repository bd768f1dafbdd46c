// The dashboard: asks where the person is signed in, at the right times, and shows it.
import * as api from './api.js';
import { $, $$, announce, fillTexts, put, setState, showBanner, showError, showSignedOut } from './page.js';
import { Activity, CardList } from './list.js';
import { actionsOn } from './actions.js';
import { foreign } from './format.js';
import { happened, say, text } from './sentences.js';

fillTexts(document);
fillTexts($('#card').content);

const types = Object.keys(happened);
const page = {
	lists: {
		current: new CardList('current', 'id'),
		active: new CardList('active', 'last_activity_at'),
		ended: new CardList('ended', 'ended_at'),
		activity: new Activity(),
	},
	tab: 'active',
	others: 0,
	changes: 0, // an answer from before the last change is not believed
	refresh,
	countOthers(count) {
		this.others = count;
		put($('#others-count'), String(count || ''));
		$('#all').hidden = count < 1 || this.tab !== 'active';
		$('[data-action=end-all]').textContent = say.endAll(count);
	},
	leave(problem, code) {
		clearTimeout(timer);
		api.hush();
		Object.values(this.lists).forEach((list) => list.clear());
		$('#who').textContent = '';
		// What was said first says more than what is found when the page looks again.
		if (code || document.body.dataset.state !== 'signed-out') showSignedOut(problem, this.current, code);
	},
};
let failures = 0, rounds = 0, freshAt = 0, timer, burst, hiding, isRunning = false, isWanted = false;

/** Asks now, then regularly while the page is seen. Wanted during a call, it asks again: that one may be late. */
async function refresh() {
	isWanted = true;
	if (isRunning) return;
	isRunning = true;
	clearTimeout(timer);
	let secs = 0;
	while (isWanted) {
		isWanted = false;
		secs = await load();
	}
	isRunning = false;
	if (secs && !document.hidden) timer = setTimeout(refresh, secs * 1e3);
}

/** Resolves to the seconds until the next time; 0 is when the page is looked at again. */
async function load() {
	const { tab, changes } = page, { wanted } = page.lists[tab];
	const isLate = () => (isWanted ||= tab !== page.tab || changes !== page.changes);
	try {
		const answer = await (tab === 'activity' ? api.listEvents(types, wanted) : api.listSessions(tab, wanted));
		const me = answer.items.find((session) => session.is_current) ?? await api.currentSession();
		if (isLate()) return 0;
		page.current = me;
		failures = 0;
		freshAt = Date.now();
		show(answer, me);
		showBanner();
		if (!document.hidden) api.listen(types, hear);
		// Beside a stream too, as uses are no events; without one more and more seldom, until somebody looks.
		return api.isLive ? 60 : Math.min(240, 30 * 2 ** rounds++);
	} catch (problem) {
		if (isLate()) return 0;
		if (problem.status === 401) return page.leave(problem);
		if (problem.passes && document.body.dataset.state === 'ready') showBanner(freshAt);
		else showError(problem);
		failures += 1;
		return problem.passes ? Math.min(60, 2 ** failures) : 0;
	}
}

/** Several events at once are one reason to ask. */
function hear() {
	burst ||= setTimeout(() => {
		burst = 0;
		refresh();
	}, 200);
}

/** Somebody is here. */
function look() {
	clearTimeout(hiding);
	rounds = 0;
	refresh();
}

function show({ items, active_count: count, next_cursor: more }, me) {
	const { tab, lists, wantsMore } = page, list = lists[tab], isFirst = !list.isFilled, isAnonymous = me.user_id === null;
	put($('#who'), foreign(me.user_id ?? text.anonymous));
	put($('.lead'), isAnonymous ? text.anonymousLead : text.lead);
	if (me.app !== 'default') put($('#product'), foreign(me.app));
	if (tab === 'active') lists.current.update([me], api.now());
	const { first, news } = list.update(items.filter((item) => !item.is_current), api.now(), !more);
	if (count) page.countOthers(count - 1);
	$('#others').hidden = isAnonymous;
	$(`[data-view=${tab}] .empty`).hidden = list.length || isAnonymous;
	$('[data-action=show-more]').hidden = !more;
	if (wantsMore) first?.focus();
	else if (isFirst || news.length > 5) announce(say.shown(items.length));
	else if (news.length) announce(news.join(' '));
	page.wantsMore = false;
	setState('ready');
}

/** The tab is in the URL, so that "back" and "reload" work. */
function showTab() {
	const query = new URLSearchParams(location.search), asked = query.get('tab');
	page.tab = /^(ended|activity)$/.test(asked) ? asked : 'active';
	for (const link of $$('[data-tab]')) {
		const { tab } = link.dataset, isHere = tab === page.tab;
		query.delete('tab');
		if (tab !== 'active') query.set('tab', tab);
		link.href = query.size ? `?${query}` : './';
		link.ariaCurrent = isHere ? 'page' : null;
		$(`[data-view=${tab}]`).hidden = !isHere;
	}
	$('[data-action=show-more]').hidden = true;
	page.countOthers(page.others);
	if ($('#panel').hidden) setState(page.lists[page.tab].isFilled ? 'ready' : 'loading');
	refresh();
}

const actions = actionsOn(page);
document.addEventListener('click', (event) => {
	const link = event.target.closest('[data-tab]');
	if (link && !(event.metaKey || event.ctrlKey || event.shiftKey)) {
		event.preventDefault();
		if (link.href !== location.href) history.pushState(null, '', link.href);
		return showTab();
	}
	const button = event.target.closest('[data-action]'), { sessionId } = button?.closest('[data-session-id]')?.dataset ?? {};
	const card = page.lists.current.get(sessionId) ?? page.lists.active.get(sessionId);
	actions[button?.dataset.action]?.(card);
});
// Browsers keep few connections to a server: who leaves does not hold one for long, who only looks away does.
document.addEventListener('visibilitychange', () => {
	clearTimeout(timer);
	if (document.hidden) hiding = setTimeout(api.hush, 30e3);
	else look();
});
for (const name of ['focus', 'online', 'offline']) addEventListener(name, look);
addEventListener('pagehide', api.hush);
addEventListener('popstate', showTab);
showTab();
