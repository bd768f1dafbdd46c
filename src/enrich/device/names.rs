//! The names of [`super`], as data: what betrays a bot, an app, a browser, a library or a system.
//!
//! Invariant: a row stands before those whose tokens its strings also carry.

/// Names, each with the tokens that betray it, divided by `|`; the order of rows and tokens is the
/// precedence.
pub(super) type Names = &'static [(&'static str, &'static str)];

/// Crawlers, link previews and monitors whose own word does not end in one of [`BOT_WORDS`].
#[rustfmt::skip]
pub(super) const BOTS: Names = &[
    ("AdsBot-Google", "AdsBot-Google"),
    ("Storebot-Google", "Storebot-Google"),
    ("Google AdSense", "Mediapartners-Google"),
    ("Google APIs", "APIs-Google"),
    ("Google App Engine", "AppEngine-Google"),
    ("Google Favicon", "Google Favicon"),
    ("Google Feedfetcher", "FeedFetcher-Google|Feedfetcher-Google"),
    ("Google Health Check", "GoogleHC|GoogleStackdriverMonitoring-UptimeChecks"),
    ("Google Image Proxy", "GoogleImageProxy"),
    ("Google Web Preview", "Google Web Preview"),
    ("GoogleOther", "GoogleOther"),
    ("Lighthouse", "Chrome-Lighthouse"),
    ("Yahoo Slurp", "Yahoo! Slurp"),
    ("Bing Preview", "BingPreview"),
    ("Skype Preview", "SkypeUriPreview"),
    ("Snap Preview", "Snap URL Preview Service"),
    ("Naver Yeti", "Yeti/"),
    ("Internet Archive", "ia_archiver|archive.org_bot|heritrix"),
    ("Mail.RU Bot", "Mail.RU_Bot"),
    ("Pingdom", "Pingdom.com_bot_version_|PingdomTMS|PingdomPageSpeed"),
    ("UptimeRobot", "UptimeRobot"),
    ("Uptime", "Uptime/"),
    ("Uptime Kuma", "Uptime-Kuma"),
    ("Datadog Synthetics", "DatadogSynthetics|Datadog"),
    ("New Relic", "NewRelicPinger|NewRelicSynthetics"),
    ("Route 53 Health Check", "Amazon-Route53-Health-Check-Service"),
    ("Amazon CloudFront", "Amazon CloudFront"),
    ("WebPageTest", "PTST/"),
    ("W3C Validator", "W3C_Validator|W3C-checklink|Validator.nu"),
    ("Nmap", "Nmap Scripting Engine"),
    ("Palo Alto Expanse", "Expanse, a Palo Alto Networks company|Palo Alto Networks"),
    ("Siteimprove", "Siteimprove.com"),
];
/// As [`BOTS`], where the token is the name.
pub(super) const PLAIN_BOTS: &str = "facebookexternalhit facebookcatalog meta-externalagent meta-externalfetcher \
    ChatGPT-User Claude-User Claude-Web anthropic-ai Perplexity-User MistralAI-User cohere-ai \
    Slack-ImgProxy Iframely Embedly Qwantify Barkrowler StatusCake \
    Site24x7 Checkly Catchpoint kube-probe ELB-HealthChecker GTmetrix PhantomJS HTTrack CensysInspect \
    InternetMeasurement zgrab masscan Mastodon Zabbix RuxitSynthetic";
/// How a crawler's own word ends, in lower case.
pub(super) const BOT_WORDS: &str = "bot|bots|crawler|spider|scraper|fetcher|slurp|archiver";

/// Apps that show pages inside themselves. They come before browsers: their strings are a browser's, and
/// more.
#[rustfmt::skip]
pub(super) const APPS: Names = &[
    ("Threads", "Barcelona"),
    ("Instagram", "Instagram"),
    ("Messenger", "FBAN/MessengerForiOS|FBAN/MessengerLiteForiOS|FB_IAB/Orca-Android|FB_IAB/MESSENGER"),
    ("Facebook", "FBAN/|FB_IAB/|FBIOS|FBAV/|FB4A"),
    ("TikTok", "musical_ly|trill|TikTok|ultralite"),
    ("Douyin", "aweme"),
    ("TikTok", "BytedanceWebview|ByteLocale"),
    ("Toutiao", "NewsArticle/"),
    ("Snapchat", "Snapchat"),
    ("WeCom", "wxwork/"),
    ("WeChat", "MicroMessenger/|WeChat/"),
    ("DingTalk", "DingTalk"),
    ("Alipay", "AlipayClient/"),
    ("Weibo", "__weibo__|Weibo"),
    ("QQ", "QQ/"),
    ("Baidu", "baiduboxapp|BaiduBoxApp"),
    ("Line", "Line/|LINE/"),
    ("KakaoTalk", "KAKAOTALK"),
    ("Naver", "NAVER(inapp"),
    ("Daum", "DaumApps"),
    ("Pinterest", "Pinterest for Android|Pinterest for iOS|Pinterest/"),
    ("LinkedIn", "LinkedInApp|LinkedIn/"),
    ("Twitter", "Twitter for iPhone|Twitter for iPad|Twitter for Mac|TwitterAndroid|Twitter/"),
    ("Telegram", "Telegram-Android|Telegram-iOS|Telegram"),
    ("WhatsApp", "WhatsApp/"),
    ("Viber", "Viber/"),
    ("Zalo", "Zalo"),
    ("Discord", "Discord/|discord/"),
    ("Slack", "Slack/|Slack_SSB/"),
    ("Microsoft Teams", "Teams/|TeamsMobile-Android|TeamsMobile-iOS"),
    ("Reddit", "Reddit/"),
    ("VK", "VKAndroidApp/|com.vk.vkclient/|VKontakte"),
    ("Outlook", "Microsoft Outlook|MSOffice|Outlook-iOS/|Outlook-Android/"),
    ("Thunderbird", "Thunderbird/"),
    ("Bing", "BingSapphire/|BingWeb/"),
    ("DuckDuckGo", "DuckDuckGo/|Ddg/"),
    ("Google app", "GSA/"),
    ("Flipboard", "Flipboard/"),
    ("Spotify", "Spotify/"),
    ("Steam", "Valve Steam|Valve Client"),
    ("Yahoo! Japan", "YJApp-ANDROID|YJApp-IOS"),
    ("Klarna", "Klarna/"),
];

/// Browsers built upon Chromium, WebKit or Gecko, whose string names those as well.
#[rustfmt::skip]
pub(super) const BROWSERS: Names = &[
    ("Headless Chrome", "HeadlessChrome|HeadlessEdg/"),
    ("Ecosia", "Ecosia ios@|Ecosia android@|Ecosia"),
    ("UC Browser", "UCBrowser|UBrowser/|UCWEB|UCMini/|UCTurbo/|UCMobile/|UCPC/"),
    ("Opera GX", "OPRGX/|OPX/"),
    ("Opera Touch", "OPT/"),
    ("Opera Mini", "Opera Mini|OPiOS/"),
    ("Opera", "OPR/|Opera"),
    ("Brave", "Brave/|Brave Chrome/|(Brave)"),
    ("Vivaldi", "Vivaldi/"),
    ("Yandex Browser", "YaBrowser/|YaApp_Android/|YaApp_iOS/|YaSearchBrowser/|YandexSearch/|Yowser/"),
    ("PICO Browser", "PicoBrowser/"),
    ("Meta Quest Browser", "OculusBrowser/"),
    ("Samsung Internet", "SamsungBrowser/"),
    ("Huawei Browser", "HuaweiBrowser/|HBPC/"),
    ("MIUI Browser", "MiuiBrowser/"),
    ("Mint Browser", "Mint Browser/"),
    ("QQ Browser", "MQQBrowser|QQBrowser/|QQBrowserLite/"),
    ("HeyTap Browser", "HeyTapBrowser/|OppoBrowser/"),
    ("vivo Browser", "VivoBrowser/"),
    ("Honor Browser", "HonorBrowser/"),
    ("Meizu Browser", "MZBrowser/"),
    ("Hi Browser", "HiBrowser/|HIBrowser/"),
    ("Phoenix Browser", "PHX/"),
    ("Sogou Explorer", "MetaSr|SogouMobileBrowser/|SogouMSE"),
    ("360 Browser", "QIHU 360|360SE|QHBrowser/|QihooBrowser/|360 Aphone Browser"),
    ("Baidu Browser", "BIDUBrowser|baidubrowser|bdbrowser_i18n|BaiduHD"),
    ("Coc Coc", "coc_coc_browser/|CocCoc/"),
    ("2345 Explorer", "2345Explorer|Mb2345Browser/"),
    ("Liebao", "LBBROWSER|LieBaoFast/"),
    ("Seznam Browser", "SznProhlizec/"),
    ("AdBlock Browser", "ABB/"),
    ("Maxthon", "Maxthon|MxBrowser/|MXiOS/"),
    ("Firefox Focus", "Focus/|FocusiOS/"),
    ("Firefox Klar", "Klar/"),
    ("Pale Moon", "PaleMoon/"),
    ("Avast Secure Browser", "Avast/"),
    ("AVG Secure Browser", "AVG/"),
    ("CCleaner Browser", "CCleaner/"),
    ("Norton Private Browser", "Norton/"),
    ("Avira Secure Browser", "Avira/"),
    ("Comodo Dragon", "Comodo_Dragon/|Dragon/"),
    ("Aloha", "AlohaBrowser/|AlohaBrowserMobile/"),
    ("Lenovo Browser", "SLBrowser/"),
    ("Qwant", "QwantMobile/"),
    ("ChatGPT Atlas", "Atlas/"),
    ("Nintendo Browser", "NintendoBrowser/"),
    ("LG Browser", "LG Browser/"),
    ("PowerShell", "WindowsPowerShell/|PowerShell/"),
    ("Edge", "Edg/|EdgA/|EdgiOS/|Edge/|EdgW/"),
    ("Internet Explorer", "IEMobile|MSIE|Trident/"),
];
/// As [`BROWSERS`], where the token is the name and a slash.
pub(super) const PLAIN_BROWSERS: &str = "Whale Silk Puffin Iron Iridium Falkon Konqueror Midori QupZilla Otter \
    Sleipnir Arc Quark Dolphin Waterfox SeaMonkey LibreWolf Basilisk IceCat Iceweasel IceDragon Camino \
    Cliqz Ghostery Mypal Epiphany K-Meleon Wolvic Atom Amigo Sputnik SberBrowser Instabridge Tesla \
    Fennec Dooble qutebrowser Lunascape Galeon OmniWeb NetSurf Dillo Kindle CoolNovo Slimjet 115Browser \
    NokiaBrowser Cobalt Chromium";

/// Libraries and tools. For these, an address in a comment is documentation and not a crawler's calling
/// card, and the bare name will do.
#[rustfmt::skip]
pub(super) const LIBRARIES: Names = &[
    ("httpx", "python-httpx"),
    ("Apache-HttpClient", "Apache-HttpClient|Apache-HttpAsyncClient|Jakarta Commons-HttpClient"),
    ("Java", "Java-http-client|Java"),
    ("Symfony HttpClient", "Symfony HttpClient"),
    ("Thunder Client", "Thunder Client"),
];
/// As [`LIBRARIES`], where the token is the name.
pub(super) const PLAIN_LIBRARIES: &str = "curl Wget python-requests Python-urllib python-urllib3 Go-http-client \
    okhttp axios node-fetch undici PostmanRuntime insomnia Dart got superagent node GuzzleHttp Faraday \
    rest-client HTTPie libwww-perl Deno Bun reqwest ureq hyper RestSharp git Ruby Typhoeus Bruno k6 \
    libcurl http.rb resty ky Scrapy";

/// Operating systems; one that claims compatibility with another (Windows Phone, HarmonyOS, KaiOS)
/// precedes it.
#[rustfmt::skip]
pub(super) const SYSTEMS: Names = &[
    ("Xbox", "Xbox"),
    ("Windows Phone", "Windows Phone OS|Windows Phone|WPDesktop"),
    ("PlayStation", "PlayStation|PLAYSTATION"),
    ("Nintendo", "Nintendo"),
    ("Tizen", "Tizen"),
    ("webOS", "Web0S|webOS|WebOS|hpwOS"),
    ("KaiOS", "KAIOS|KaiOS"),
    ("HarmonyOS", "HarmonyOS|OpenHarmony"),
    ("Sailfish OS", "Sailfish"),
    ("ChromeOS", "CrOS"),
    ("Roku OS", "Roku"),
    ("VIDAA", "VIDAA"),
    ("tvOS", "AppleTV|Apple TV|tvOS"),
    ("watchOS", "watchOS|Apple Watch"),
    ("visionOS", "visionOS"),
    ("iPadOS", "iPad|iPadOS"),
    ("iOS", "iPhone|iPod|iOS"),
    ("Android", "Android|Andr0id|Adr|OculusBrowser|FB4A"),
    ("Fuchsia", "Fuchsia"),
    ("BlackBerry", "BlackBerry|BB10|PlayBook"),
    ("Symbian", "SymbianOS|Symbian|SymbOS|Series60|Series 60"),
    ("Bada", "Bada"),
    ("MeeGo", "MeeGo"),
    ("Windows", "Windows|Win98|Win95|Win 9x|Win32|Win64"),
    ("macOS", "Macintosh|macOS|Mac OS X|Mac_PowerPC|OS X"),
    ("FreeBSD", "FreeBSD"),
    ("OpenBSD", "OpenBSD"),
    ("NetBSD", "NetBSD"),
    ("Solaris", "SunOS"),
    ("Haiku", "Haiku"),
    ("Linux", "Linux|linux-gnu|linux|X11|Ubuntu"),
];

/// Windows by the kernel version it states. 10.0 is absent: it is Windows 10 and 11 alike.
#[rustfmt::skip]
pub(super) const WINDOWS_NT: Names = &[
    ("8.1", "6.3"), ("8", "6.2"), ("7", "6.1"), ("Vista", "6.0"),
    ("XP", "5.2"), ("XP", "5.1"), ("2000", "5.0"),
];

/// Tokens that exist on iOS only; on a "Macintosh" they are an iPad that asks for the desktop's pages.
pub(super) const IOS_ONLY: &str = "CriOS/|FxiOS/|EdgiOS/|OPiOS/|GSA/|FBIOS|Mobile/";
pub(super) const TV_WORDS: &str = "TV|SMART-TV|SmartTV|GoogleTV|HbbTV|DTV|BRAVIA|CrKey|NetCast|VIDAA|Viera|MiBOX|\
    MIBOX|BeyondTV|Web0S";
pub(super) const TABLET_WORDS: &str = "Tablet|SM-T|SM-X|SM-P|GT-P|Nexus 7|Nexus 9|Nexus 10|Pixel C|Tab|Pad|MediaPad|\
    MatePad|TB-|Xoom|PlayBook";
/// How Amazon's model numbers begin, its televisions' and its tablets'.
pub(super) const FIRE_TV: &str = "; AFT";
pub(super) const FIRE_TABLET: &str = "; KF";
