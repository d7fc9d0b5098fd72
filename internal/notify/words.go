package notify

import (
	"strconv"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/truth"
	"wxtoken/internal/wechat"
)

// words are the texts of a notice for a robot. The only foreign texts in it are appids, which are
// letters and digits.
type words struct {
	good  bool // it is good news: over, or a test
	title string
	lines []line
	link  string // "" if there is none
	open  string // what the link is called
}

// line is one line: a name and a text.
type line struct{ name, text string }

// maxLine bounds one line, in characters: robots take a few thousand bytes in all.
const maxLine = 300

// say returns the texts of a notice in a language. The title begins with wxtoken: a robot may
// require such a keyword.
func say(n events.Notice, l lang.Language, console string) words {
	d := n.Data
	cause := truth.CauseOf(wxtoken.Reason(d.Cause))
	if console != "" {
		console = strings.TrimSuffix(console, "/") + cause.Path
	}
	title := lang.T("wxtoken: needs a person: %s", "wxtoken 需要处理：%s", d.What)
	switch d.Phase {
	case events.PhaseOver:
		title = lang.T("wxtoken: over: %s", "wxtoken 已恢复：%s", d.What)
	case events.PhaseGrew:
		title = lang.T("wxtoken: more accounts: %s", "wxtoken 涉及更多授权方：%s", d.What)
		if cause.Things {
			title = lang.T("wxtoken: more of it: %s", "wxtoken 又有新增：%s", d.What)
		}
	case events.PhaseTest:
		title = lang.T("wxtoken says: %s", "wxtoken 通知：%s", d.What)
	}
	w := words{good: d.Phase == events.PhaseOver || d.Phase == events.PhaseTest, title: shorten(title.In(l)), link: console,
		open: lang.T("open the operator's page", "打开运维页面").In(l)}
	add := func(name, text lang.Text) {
		if t := text.In(l); t != "" {
			w.lines = append(w.lines, line{name.In(l), shorten(t)})
		}
	}
	add(lang.T("component", "第三方平台"), lang.Same(d.Component))
	add(lang.T("refresher on", "refresher 所在主机"), lang.Same(d.Instance))
	switch over := d.Phase == events.PhaseOver; {
	case over || d.Count == 0:
	case len(d.Names) > 0:
		add(lang.T("copies", "只读副本"), lang.Same(strings.Join(d.Names, ", ")))
	case cause.Things:
		add(lang.T("messages", "消息"), lang.Same(strconv.Itoa(d.Count)))
	default:
		add(lang.T("accounts", "授权方"), accounts(d))
	}
	add(lang.T("since", "开始"), clock(d.Since))
	if d.Until != nil {
		add(lang.T("until", "预计结束"), clock(*d.Until))
	}
	if d.Phase == events.PhaseOver {
		add(lang.T("over", "恢复"), clock(n.Time))
	} else {
		add(lang.T("what to do", "处理"), d.Do)
	}
	return w
}

// accounts tells how many accounts are concerned, and names the first ones.
func accounts(d events.NoticeData) lang.Text {
	var ids []string
	for _, key := range d.Keys {
		if k, err := wxtoken.ParseKey(key); err == nil {
			ids = append(ids, k.Authorizer)
		}
	}
	named := lang.Same(strings.Join(ids, ", "))
	if more := d.Count - len(ids); more > 0 {
		named = lang.T("%s and %d more", "%s，另有 %d 个", named, more)
	}
	if truth.CauseOf(wxtoken.Reason(d.Cause)).Accounts {
		return lang.T("%d: %s", "%d 个：%s", d.Count, named)
	}
	return lang.T("%d without a good token: %s", "%d 个没有有效令牌：%s", d.Count, named)
}

// clock writes a time: in UTC in English, in China's time in Chinese.
func clock(at time.Time) lang.Text {
	return lang.Given(at.UTC().Format(time.DateTime)+" UTC", wechat.InChina(at).Format(time.DateTime)+"（北京时间）")
}

func shorten(text string) string {
	if runes := []rune(text); len(runes) > maxLine {
		return string(runes[:maxLine-1]) + "…"
	}
	return text
}
