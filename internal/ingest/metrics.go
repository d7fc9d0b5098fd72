package ingest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"wxtoken/client/document"
	"wxtoken/internal/wechat"
)

// Kinds of a push, besides the InfoTypes.
const (
	kindMessage      = "message"
	kindReleaseCheck = "release_check"
	kindEchoStr      = "echostr"
	kindOther        = "other" // an InfoType that is not in the list, or a push that could not be read
)

// kinds are the values of the label kind. The list is fixed: labels made from foreign text could
// grow without bound.
var kinds = []string{
	wechat.InfoTicket, wechat.InfoAuthorized, wechat.InfoUpdateAuthorized, wechat.InfoUnauthorized, wechat.InfoFastRegister,
	"notify_third_fastregisterbetaapp", "notify_third_fastverifybetaapp", "notify_3rd_wxa_auth", "notify_3rd_wxa_wxverify",
	"notify_3rd_wxa_auth_and_icp", "notify_icpfiling_verify_result", "notify_apply_icpfiling_result",
	kindMessage, kindReleaseCheck, kindEchoStr, kindOther,
}

// kindLabel returns the label for a kind: itself if it is in the list, otherwise kindOther.
func kindLabel(kind string) string {
	if slices.Contains(kinds, kind) {
		return kind
	}
	return kindOther
}

// Results of a push.
const (
	resultAccepted        = "accepted"
	resultDuplicate       = "duplicate" // a repeat of a push that was stored already
	resultStale           = "stale"     // too old to be stored
	resultRejected        = "rejected"
	resultNATSUnavailable = "nats_unavailable" // no publish ack; WeChat was asked to send it again
)

var results = []string{resultAccepted, resultDuplicate, resultStale, resultRejected, resultNATSUnavailable}

// Reasons for refusing a push, besides those of wechat.
const (
	reasonMethod   wechat.Reason = "method"
	reasonPath     wechat.Reason = "path"
	reasonEncoding wechat.Reason = "encoding"  // a Content-Encoding: nothing is ever decompressed
	reasonTooLarge wechat.Reason = "too_large" // the body is larger than maxBody
	reasonBody     wechat.Reason = "body"      // the body did not arrive in time, or not completely
	reasonBusy     wechat.Reason = "busy"      // maxParsing pushes are being parsed

	// Not refusals, but reasons of other log lines.
	reasonStale    wechat.Reason = "stale"
	reasonSkewed   wechat.Reason = "skewed"
	reasonNATS     wechat.Reason = "nats_unavailable"
	reasonOdd      wechat.Reason = "odd"
	reasonUnlisted wechat.Reason = "unlisted" // stands for a reason that is not in these lists
)

// Reasons, in the log, for answering a message with success although a service listens.
const (
	reasonReplyBusy     wechat.Reason = "reply_busy"      // maxAsking messages wait for services
	reasonReplyLate     wechat.Reason = "reply_late"      // no answer within answerTime
	reasonReplyError    wechat.Reason = "reply_error"     // the service answered with an error
	reasonReplyTooLarge wechat.Reason = "reply_too_large" // the answer is larger than maxReply
	reasonReplySyntax   wechat.Reason = "reply_syntax"    // the answer is neither XML nor JSON
	reasonReplySeal     wechat.Reason = "reply_seal"      // the answer could not be encrypted
)

var replyReasons = []wechat.Reason{
	reasonReplyBusy, reasonReplyLate, reasonReplyError, reasonReplyTooLarge, reasonReplySyntax, reasonReplySeal,
}

// Results of asking the services for a reply.
const (
	replyAnswered = "answered"
	replyNone     = "none"    // no service listens, or it answered without a reply
	replyLate     = "late"    // no answer in time
	replyRefused  = "refused" // the answer is not a reply that WeChat could read
)

var replyResults = []string{replyAnswered, replyNone, replyLate, replyRefused}

var reasons = []wechat.Reason{
	reasonMethod, reasonPath, reasonEncoding, reasonTooLarge, reasonBody, reasonBusy,
	wechat.ReasonQuery, wechat.ReasonQueryDup, wechat.ReasonTimestamp, wechat.ReasonNonce, wechat.ReasonSignatureSyntax,
	wechat.ReasonEmpty, wechat.ReasonXML, wechat.ReasonXMLShape, wechat.ReasonJSON, wechat.ReasonNoEncrypt,
	wechat.ReasonSignature, wechat.ReasonDecrypt, wechat.ReasonAppID, wechat.ReasonAppIDSyntax, wechat.ReasonField,
}

type metrics struct {
	pushes     *prometheus.CounterVec   // kind, result
	rejected   *prometheus.CounterVec   // reason
	duration   *prometheus.HistogramVec // result
	skew       *prometheus.HistogramVec // kind
	skewed     prometheus.Counter
	odd        *prometheus.CounterVec // kind
	keys       *prometheus.CounterVec // key
	suppressed prometheus.Counter

	replies       *prometheus.CounterVec // result
	replyDuration prometheus.Histogram
	connects      *prometheus.CounterVec // page, result
}

// newMetrics registers all metrics, with zero for every label value, so that an alert can tell
// "never" from "not measured".
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_push_total", Help: "Pushes from WeChat, by InfoType or other kind, and by result.",
		}, []string{"kind", "result"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_push_rejected_total", Help: "Pushes that were refused, by reason.",
		}, []string{"reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "wxtoken_push_duration_seconds", Help: "Time from the request's header to the answer. WeChat waits 5 seconds.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"result"}),
		skew: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "wxtoken_push_skew_seconds", Help: "Our clock minus CreateTime when a push arrived.",
			Buckets: []float64{-300, -60, -5, 0, 1, 5, 30, 60, 300, 3600, 86400},
		}, []string{"kind"}),
		skewed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "wxtoken_push_skewed_total", Help: "Pushes whose CreateTime is more than 5 minutes from our clock. They are accepted all the same.",
		}),
		odd: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_push_odd_total", Help: "Odd pushes, which were stored all the same, by kind of oddity.",
		}, []string{"kind"}),
		keys: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_push_key_total", Help: "Decrypted pushes, by EncodingAESKey. A key that is no longer used may be removed.",
		}, []string{"key"}),
		suppressed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "wxtoken_push_log_suppressed_total", Help: "Log lines about pushes that were left out because there were too many in the same second.",
		}),
		replies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_reply_total", Help: "Messages and events sent to services for a reply, by result.",
		}, []string{"result"}),
		replyDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "wxtoken_reply_duration_seconds", Help: "Time that services took for the replies that WeChat got.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 4},
		}),
		connects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_connect_total", Help: "Pages of authorization links, by page and result.",
		}, []string{"page", "result"}),
	}
	var faults []error
	for _, c := range []prometheus.Collector{
		m.pushes, m.rejected, m.duration, m.skew, m.skewed, m.odd, m.keys, m.suppressed, m.replies, m.replyDuration, m.connects,
	} {
		if err := reg.Register(c); err != nil {
			faults = append(faults, fmt.Errorf("register a metric: %w", err))
		}
	}
	for _, kind := range kinds {
		m.skew.WithLabelValues(kind)
		for _, result := range results {
			m.pushes.WithLabelValues(kind, result)
		}
	}
	for _, kind := range document.Kinds() {
		m.odd.WithLabelValues(string(kind))
	}
	for _, reason := range reasons {
		m.rejected.WithLabelValues(string(reason))
	}
	for _, result := range results {
		m.duration.WithLabelValues(result)
	}
	for _, result := range replyResults {
		m.replies.WithLabelValues(result)
	}
	for _, page := range connectPages {
		for _, result := range connectResults {
			m.connects.WithLabelValues(page, result)
		}
	}
	for key := range 2 {
		m.keys.WithLabelValues(keyLabel(key))
	}
	return m, errors.Join(faults...)
}

// keyLabel names the EncodingAESKey with that index.
func keyLabel(index int) string {
	if index == 0 {
		return "current"
	}
	return "previous"
}
