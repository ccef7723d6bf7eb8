package guest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"time"

	"github.com/eosc-siesta/siestad/internal/door"
)

// Refused is the broker's no. The guest learns an id, which a person may look up, and
// nothing about the reason.
type Refused struct {
	What   string
	Status int
	ID     string
}

func (r *Refused) Error() string {
	if r.ID == "" {
		return fmt.Sprintf("%s: the broker refuses (status %d)", r.What, r.Status)
	}
	return fmt.Sprintf("%s: the broker refuses (refusal %s)", r.What, r.ID)
}

// client posts to the native door. An error that is not Refused may have happened after
// the broker acted: the caller sends the same request again.
type client struct {
	base string
	http *http.Client
}

const (
	requestTimeout = 20 * time.Second
	maxProblem     = 16 << 10
)

func newClient(base string) *client {
	return &client{base: base, http: &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true, // an exchange every few minutes at most
			// Every answer that matters is signed by the measured key B, and keys are sealed
			// to ours: a certificate would add a second root of trust and no safety.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}, //nolint:gosec // see above
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

var refusalID = regexp.MustCompile(`^[0-9A-Za-z:_-]{1,80}$`)

func (c *client) post(ctx context.Context, what, path string, message any, limit int) ([]byte, error) {
	body, err := json.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, int64(max(limit, maxProblem))+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	switch {
	case resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusCreated:
		return answer, nil
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusTooManyRequests,
		resp.StatusCode == http.StatusRequestTimeout, resp.StatusCode < 400:
		return nil, fmt.Errorf("%s: the broker answers with status %d", what, resp.StatusCode)
	}
	return nil, &Refused{What: what, Status: resp.StatusCode, ID: idOf(answer)}
}

// idOf finds the id of a refusal in an RFC 9457 problem. It is printed, so it is judged.
func idOf(problem []byte) string {
	var p struct {
		Instance string `json:"instance"`
	}
	if json.Unmarshal(problem, &p) != nil || !refusalID.MatchString(p.Instance) {
		return ""
	}
	return p.Instance
}

func (c *client) challenge(ctx context.Context, req door.ChallengeRequest) (door.Challenge, error) {
	const what = "asking for a challenge"
	body, err := c.post(ctx, what, "/v1/challenges", req, door.MaxChallenge)
	if err != nil {
		return door.Challenge{}, err
	}
	ch, err := door.DecodeChallenge(body)
	if err != nil {
		return door.Challenge{}, fmt.Errorf("%s: %w", what, err)
	}
	return ch, nil
}

func (c *client) grant(ctx context.Context, req door.GrantRequest) (door.Grant, error) {
	const what = "asking for a grant"
	body, err := c.post(ctx, what, "/v1/grants", req, door.MaxGrant)
	if err != nil {
		return door.Grant{}, err
	}
	g, err := door.DecodeGrant(body)
	if err != nil {
		return door.Grant{}, fmt.Errorf("%s: %w", what, err)
	}
	return g, nil
}

func (c *client) event(ctx context.Context, lease string, e door.Event) (door.EventAnswer, error) {
	what := "reporting " + string(e.Stage)
	body, err := c.post(ctx, what, "/v1/guests/"+lease+"/events", e, door.MaxEventAnswer)
	if err != nil {
		return door.EventAnswer{}, err
	}
	a, err := door.DecodeEventAnswer(body)
	if err != nil {
		return door.EventAnswer{}, fmt.Errorf("%s: %w", what, err)
	}
	return a, nil
}

func isRefused(err error) bool {
	var r *Refused
	return errors.As(err, &r)
}
