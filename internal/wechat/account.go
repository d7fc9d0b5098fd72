package wechat

import (
	"context"
	"net/url"
	"time"
)

// TicketType says what a derived ticket is for.
type TicketType string

// The types of Ticket ("api_getticket").
const (
	TicketJSAPI  TicketType = "jsapi"   // signs pages that use the JS-SDK
	TicketWxCard TicketType = "wx_card" // signs cards
)

// Ticket is a jsapi_ticket or wx_card_ticket of an account.
type Ticket struct {
	hidden
	Value     string
	ExpiresIn time.Duration // the full life at every call, however old the ticket is
}

// Ticket gets a ticket of an account with the account's access token ("api_getticket"). Within its
// life WeChat returns the same one again.
func (c *Client) Ticket(ctx context.Context, accessToken string, kind TicketType) (Ticket, error) {
	k := call{api: APIGetTicket, token: accessToken, get: true, inQuery: url.Values{"type": {string(kind)}}}
	var answer struct {
		Ticket    token  `json:"ticket"`
		ExpiresIn number `json:"expires_in"`
	}
	if err := c.do(ctx, &k, &answer); err != nil {
		return Ticket{}, err
	}
	grant, err := k.grant(answer.Ticket, answer.ExpiresIn, "")
	return Ticket{Value: grant.AccessToken, ExpiresIn: grant.ExpiresIn}, err
}

// SendText sends a text to a user who wrote to the account within the last 48 hours, with the
// account's access token ("custom_message").
func (c *Client) SendText(ctx context.Context, accessToken, openID, text string) error {
	var request struct {
		ToUser  string `json:"touser"`
		MsgType string `json:"msgtype"`
		Text    struct {
			Content string `json:"content"`
		} `json:"text"`
	}
	request.ToUser, request.MsgType, request.Text.Content = openID, "text", text
	k := call{api: APICustomSend, token: accessToken, request: request, inQuery: url.Values{}, secrets: []string{text, openID}}
	return c.do(ctx, &k, &struct{}{})
}

// Quota is how often a call may be made today ("getApiQuota").
type Quota struct {
	DailyLimit, Used, Remain int
}

// Quota asks how much of a call of the component is left today.
func (c *Client) Quota(ctx context.Context, componentToken string, api API) (Quota, error) {
	request := struct {
		Path string `json:"cgi_path"`
	}{api.Path()}
	k := call{api: APIQuotaGet, token: componentToken, request: request, inQuery: url.Values{}}
	var answer struct {
		Quota *struct {
			DailyLimit number `json:"daily_limit"`
			Used       number `json:"used"`
			Remain     number `json:"remain"`
		} `json:"quota"`
	}
	if err := c.do(ctx, &k, &answer); err != nil {
		return Quota{}, err
	}
	if answer.Quota == nil {
		return Quota{}, k.faulty("quota is missing")
	}
	q := *answer.Quota
	return Quota{DailyLimit: int(q.DailyLimit), Used: int(q.Used), Remain: int(q.Remain)}, nil
}

// ClearQuota sets the component's counters of today to zero, ten times a month at most
// ("clearComponentQuotaByAppSecret"). It takes no token, so it helps when api_component_token
// itself is used up.
func (c *Client) ClearQuota(ctx context.Context, component, appsecret string) error {
	request := struct {
		AppID     string `json:"appid"`
		Component string `json:"component_appid"`
		Secret    string `json:"appsecret"`
	}{component, component, appsecret}
	k := call{api: APIClearQuota, request: request, secrets: []string{appsecret}}
	return c.do(ctx, &k, &struct{}{})
}
