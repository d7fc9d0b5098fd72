package wechatsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// field is one member of a JSON answer or one element of a pushed document.
type field struct {
	name  string
	value any // object, []object, []string, []int, string, int, int64; in documents object, string, int64
}

// object is an answer or a document. Its fields keep their order, unless the form varies.
type object []field

// renderJSON writes an answer. If vary is not nil, the order of the fields varies, there may be an
// unknown field, and numbers may be strings, as they differ between WeChat's APIs.
func renderJSON(o object, vary *rand.Rand) string {
	var b strings.Builder
	writeJSON(&b, o, vary)
	return b.String()
}

func writeJSON(b *strings.Builder, value any, vary *rand.Rand) {
	switch v := value.(type) {
	case object:
		o := slices.Clone(v)
		if vary != nil {
			if vary.IntN(4) == 0 {
				o = append(o, field{"sim_extra_field", vary.IntN(1000)})
			}
			vary.Shuffle(len(o), func(i, j int) { o[i], o[j] = o[j], o[i] })
		}
		writeList(b, '{', '}', o, func(f field) {
			writeValue(b, f.name)
			b.WriteByte(':')
			if n, ok := f.value.(int); ok && f.name == "expires_in" && vary != nil && vary.IntN(8) == 0 {
				writeValue(b, strconv.Itoa(n))
				return
			}
			writeJSON(b, f.value, vary)
		})
	case []object:
		writeList(b, '[', ']', v, func(o object) { writeJSON(b, o, vary) })
	default:
		writeValue(b, v)
	}
}

func writeList[T any](b *strings.Builder, left, right byte, list []T, write func(T)) {
	b.WriteByte(left)
	for i, item := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		write(item)
	}
	b.WriteByte(right)
}

// writeValue writes a text or a number. That can't fail.
func writeValue(b *strings.Builder, v any) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(fmt.Sprintf("wechatsim: value in an answer: %v", err))
	}
	b.Write(bytes.TrimSuffix(text.Bytes(), []byte("\n")))
}

// renderXML writes a document as WeChat does: texts in CDATA, numbers bare. If vary is not nil,
// order, CDATA and spacing vary.
func renderXML(fields object, vary *rand.Rand) string {
	gap := "\n"
	if vary != nil {
		gap = []string{"", "\n", "\r\n", "\n\t", " "}[vary.IntN(5)]
	}
	var b strings.Builder
	writeXML(&b, "xml", fields, gap, vary)
	return b.String()
}

var xmlEscaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "\r", "&#13;")

func writeXML(b *strings.Builder, name string, value any, gap string, vary *rand.Rand) {
	b.WriteString("<" + name + ">")
	switch v := value.(type) {
	case object:
		v = slices.Clone(v)
		if vary != nil {
			vary.Shuffle(len(v), func(i, j int) { v[i], v[j] = v[j], v[i] })
		}
		for _, f := range v {
			b.WriteString(gap)
			writeXML(b, f.name, f.value, gap, vary)
		}
		b.WriteString(gap)
	case string:
		if strings.Contains(v, "]]>") || vary != nil && vary.IntN(3) == 0 {
			b.WriteString(xmlEscaper.Replace(v))
		} else {
			b.WriteString("<![CDATA[" + v + "]]>")
		}
	default:
		fmt.Fprint(b, v)
	}
	b.WriteString("</" + name + ">")
}
