package wxtoken

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

const createLinkSubject = "wxtoken.connect.create"

// LinkRequest asks for a link with which a merchant authorizes an account. Only Component is
// required.
type LinkRequest struct {
	Component      string `json:"component"`                  // component_appid
	Ref            string `json:"ref,omitempty"`              // your own id for the account, 256 bytes at most
	Return         string `json:"return,omitempty"`           // where the browser goes afterwards; its host is one of --return-hosts
	AuthType       int    `json:"auth_type,omitempty"`        // WeChat's: 1 official accounts, 2 mini programs, 3 both (default), 4, 5, 6, 8
	BizAppID       string `json:"biz_appid,omitempty"`        // the one account that may authorize
	CategoryIDList []int  `json:"category_id_list,omitempty"` // WeChat's permission sets to ask for
	ExpiresIn      int    `json:"expires_in,omitempty"`       // life in seconds, 60 to 2,592,000; 0 means 1,800
	Move           bool   `json:"move,omitempty"`             // give an account that has another ref this one instead
}

// Link is a link with which a merchant authorizes. It opens for anyone who has it: treat it as a secret.
type Link struct {
	URL       string    `json:"url"`
	ID        string    `json:"id"`
	ExpiresAt time.Time `json:"expires_at"`
}

// RequestError is the refusal of a request by the refresher.
type RequestError struct {
	Code    string // as in HTTP: 400 for a faulty request, 404, 409; 503 when it can't be done now
	Message string // what is wrong, and what to do
}

// Error returns code and message.
func (e *RequestError) Error() string {
	return fmt.Sprintf("the refresher answered %s %q", e.Code, e.Message)
}

// CreateLink makes an authorization link. It waits 5 s at most where ctx has no deadline. The error
// is a *RequestError where the refresher refused the request, and wraps nats.ErrNoResponders when
// no refresher is listening, nats.ErrPermissionViolation when this user may not make links.
func (c *Client) CreateLink(ctx context.Context, request LinkRequest) (link Link, err error) {
	if err = c.request(ctx, createLinkSubject, request, &link); err != nil {
		return Link{}, fmt.Errorf("make an authorization link: %w", err)
	}
	return link, nil
}

// request sends a question to the refresher as JSON, and reads its answer into answer.
func (c *Client) request(ctx context.Context, subject string, question, answer any) error {
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	data, err := json.Marshal(question)
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	msg, err := c.nc.RequestWithContext(ctx, subject, data)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: no refresher is listening on %s (start it, or check that this connection is to its "+
			"NATS account)", err, subject)
	case err != nil:
		return explain(c.nc, err, subject)
	}
	if text := msg.Header.Get(micro.ErrorHeader); text != "" {
		return &RequestError{Code: msg.Header.Get(micro.ErrorCodeHeader), Message: text}
	}
	if err := json.Unmarshal(msg.Data, answer); err != nil {
		return fmt.Errorf("unreadable answer on %s (does something else listen there?)", subject)
	}
	return nil
}
