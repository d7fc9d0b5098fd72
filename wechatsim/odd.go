package wechatsim

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Oddity is a way in which a push of WeChat's differs from the documented form. All of them are in
// public bug reports.
type Oddity string

// The oddities. Those of the envelope are not signed; all others are.
const (
	OddAttribute   Oddity = "attribute"    // an element with an attribute
	OddComment     Oddity = "comment"      // a comment between the elements
	OddControl     Oddity = "control"      // a text with control characters, raw in JSON
	OddNotUTF8     Oddity = "not_utf8"     // a text cut inside a character
	OddTextBeside  Oddity = "text_beside"  // a word between the elements
	OddWrongEndTag Oddity = "wrong_end"    // an element whose end tag has another name
	OddCDATAEnd    Oddity = "cdata_end"    // a text with ]]> in it
	OddName        Oddity = "name"         // an element or a member whose name is not ASCII
	OddOwnLines    Oddity = "own_lines"    // white space around what WeChat writes itself
	OddTwice       Oddity = "twice"        // an unknown name that occurs twice
	OddEncrypt     Oddity = "encrypt"      // white space in and around Encrypt
	OddClearField  Oddity = "clear_fields" // fields in the clear beside Encrypt, one with a control character
)

// Oddities returns all of them, in the order in which OddPushes uses them.
func Oddities() []Oddity {
	return []Oddity{
		OddAttribute, OddComment, OddControl, OddNotUTF8, OddTextBeside, OddWrongEndTag, OddCDATAEnd, OddName, OddOwnLines, OddTwice,
		OddEncrypt, OddClearField,
	}
}

// OddPushes makes the next n pushes of an InfoType odd: each in another way, or all in the way as
// if that is not "". "" as InfoType means every push. The content of an odd push stays the same: a
// good receiver reads it and answers with success. Heal ends it.
func (p *Platform) OddPushes(infoType string, n int, as Oddity) error {
	if n < 1 {
		return errors.New("odd pushes: want 1 or more")
	}
	if as != "" && !slices.Contains(Oddities(), as) {
		return fmt.Errorf("odd pushes: no oddity %q: want one of %v", as, Oddities())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.odd[infoType] += n
	p.oddAs = as
	p.record(Entry{Kind: EntryFault, InfoType: infoType, Text: fmt.Sprintf("%d odd pushes %s", n, as)})
	return nil
}

// makeOdd makes a push odd if it should be. The caller holds p.mu.
func (p *Platform) makeOdd(job *push) {
	if job.mode == ModePlain || job.infoType == infoRaw || !takeOne(p.odd, job.infoType) {
		return
	}
	job.odd = p.oddAs
	if job.odd == "" {
		job.odd = Oddities()[p.oddTurn%len(Oddities())]
		p.oddTurn++
	}
	job.document = job.odd.document(job.document, job.json, p.chance(0.5))
}

// takeOne subtracts one from the number left for a name, or for "", which means every name, and
// reports whether there was one.
func takeOne(left map[string]int, name string) bool {
	for _, n := range []string{name, ""} {
		if left[n] > 0 {
			left[n]--
			return true
		}
	}
	return false
}

// oddXML and oddJSON are the pieces that are added at the beginning or the end of a document.
var (
	oddXML = map[Oddity]string{
		OddAttribute: `<note lang="zh_CN">odd</note>`, OddComment: "<!-- odd -->", OddControl: "<note><![CDATA[o\x1dd\x00d]]></note>",
		OddNotUTF8: "<note><![CDATA[odd\xe5\x90]]></note>", OddTextBeside: "odd", OddWrongEndTag: "<note>odd</remark>",
		OddCDATAEnd: "<note><![CDATA[odd[0]]> 1]]></note>", OddName: "<备注>odd</备注>", OddTwice: "<note>odd</note><note>odd</note>",
	}
	oddJSON = map[Oddity]string{
		OddControl: "\"note\":\"o\x02d\nd\"", OddNotUTF8: "\"note\":\"odd\xe5\x90\"", OddTwice: `"note":1,"note":2`, OddName: `"备注":"odd"`,
	}
	ownField = regexp.MustCompile(`(<(?:AppId|CreateTime|InfoType|ComponentVerifyTicket|AuthorizerAppid|AuthorizationCode|PreAuthCode|appid|` +
		`auth_code|status|ToUserName|FromUserName|MsgType|Event|MsgId)>)([^<]+|<!\[CDATA\[[^\]]*\]\]>)(</)`)
)

// document returns a document with the oddity: at its beginning if first is true, otherwise at its
// end.
func (o Oddity) document(text string, isJSON, first bool) string {
	start, end, more, comma := "<xml>", "</xml>", oddXML[o], ""
	if isJSON {
		start, end, more, comma = "{", "}", oddJSON[o], ","
	}
	switch {
	case o == OddOwnLines && !isJSON:
		return ownField.ReplaceAllString(text, "$1\n  $2\n$3")
	case more == "":
		return text
	case first:
		return start + more + comma + strings.TrimPrefix(text, start)
	default:
		return strings.TrimSuffix(text, end) + comma + more + end
	}
}

// envelope returns an envelope with the oddity.
func (o Oddity) envelope(head field, encrypted string, isJSON bool) string {
	switch {
	case isJSON && o == OddEncrypt:
		return `{"` + head.name + `":"gh_odd","Encrypt":" ` + encrypted + `\n"}`
	case isJSON:
		return `{"Content":"` + "o\x02d" + `","Encrypt":"` + encrypted + `"}`
	case o == OddEncrypt:
		return "<xml>\n  <Encrypt>\n  <![CDATA[" + encrypted + "]]>\n  </Encrypt>\n</xml>\n"
	default:
		return "<xml><Content><![CDATA[o\x1dd]]></Content><Encrypt><![CDATA[" + encrypted + "]]></Encrypt></xml>"
	}
}

// refreshFields are the names of a refresh token in answers.
var refreshFields = []string{"authorizer_refresh_token", "refresh_token"}

// oddAnswer returns an answer as FaultNoRefresh and FaultEmptyRefresh change it. In a list they
// change only the entry of one account, if the fault names one.
func (f fate) oddAnswer(o object) object {
	changed := object{}
	for _, member := range o {
		switch value := member.value.(type) {
		case object:
			member.value = f.oddAnswer(value)
		case []object:
			entries := slices.Clone(value)
			for i, entry := range entries {
				if len(entry) > 0 && (f.account == "" || entry[0].value == f.account) {
					entries[i] = f.oddAnswer(entry)
				}
			}
			member.value = entries
		}
		if slices.Contains(refreshFields, member.name) {
			switch f.odd {
			case FaultNoRefresh:
				continue
			case FaultEmptyRefresh:
				member.value = ""
			}
		}
		changed = append(changed, member)
	}
	return changed
}

// rawText is what FaultRaw puts into an answer: an account's signature as typed on a phone.
const rawText = "\"signature\":\"fine\x08 goods\nevery day\xe5\x90\",\"signature\":\"twice\""

// rawAnswer returns an answer with bytes that are not valid in JSON.
func rawAnswer(answer string) string {
	if before, after, found := strings.Cut(answer, `"authorizer_info":{`); found {
		return before + `"authorizer_info":{` + rawText + "," + after
	}
	return strings.Replace(answer, "{", "{"+rawText+",", 1)
}
