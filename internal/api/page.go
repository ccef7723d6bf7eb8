package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strings"

	"github.com/eosc-siesta/siestad/internal/api/gen"
)

const macSize = 16

// pager cuts lists into pages. A cursor is the key of the last item with a MAC over it, the caller, the operation and
// the filter: it opens no other list, and nobody can make one up.
type pager struct {
	key   []byte
	scope []string
	limit int
}

func (s *Server) pager(ctx context.Context, limit *gen.Limit, operation string, filter ...string) pager {
	p := pager{key: s.cfg.CursorKey, scope: append([]string{callOf(ctx).who.Subject, operation}, filter...), limit: 50}
	if limit != nil {
		p.limit = *limit
	}
	return p
}

func (p pager) mac(position string) []byte {
	h := hmac.New(sha256.New, p.key)
	for _, part := range append([]string{"siestad/cursor/v1", position}, p.scope...) {
		_ = binary.Write(h, binary.BigEndian, int64(len(part)))
		h.Write([]byte(part))
	}
	return h.Sum(nil)[:macSize]
}

func (p pager) seal(position string) *string {
	c := base64.RawURLEncoding.EncodeToString(append(p.mac(position), position...))
	return &c
}

// after returns where the page starts, "" for the first.
func (p pager) after(cursor *gen.Cursor) (string, error) {
	if cursor == nil || *cursor == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(*cursor)
	if err != nil || len(raw) <= macSize {
		return "", kindCursor.because("The cursor is not one of this service.")
	}
	position := string(raw[macSize:])
	if !hmac.Equal(raw[:macSize], p.mac(position)) {
		return "", kindCursor.because("The cursor belongs to another list.")
	}
	return position, nil
}

// cut makes a page of up to limit items from up to limit+1 of them: the one too many says that there is a next page.
func cut[T, V any](p pager, list []T, key func(T) string, view func(T) V) ([]V, *string) {
	var next *string
	if len(list) > p.limit {
		list = list[:p.limit]
		next = p.seal(key(list[p.limit-1]))
	}
	views := make([]V, len(list))
	for i, item := range list {
		views[i] = view(item)
	}
	return views, next
}

// etag is the version of a thing as the API shows it: two answers with the same bytes have the same one.
func etag(view any) string {
	body, err := json.Marshal(view)
	if err != nil {
		return `""` // matches nothing that a client was ever told
	}
	h := sha256.Sum256(body)
	return `"` + base64.RawURLEncoding.EncodeToString(h[:15]) + `"`
}

// matches refuses a change to a thing that is no longer what the caller saw.
func matches(want *gen.IfMatch, view any) error {
	if want == nil {
		return kindNoIfMatch.because("This request changes something and does not say which version of it.")
	}
	for tag := range strings.SplitSeq(*want, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == etag(view) {
			return nil
		}
	}
	return kindStale.because("Its ETag is another one now.")
}

func pointer[T ~string](v *T) string {
	if v == nil {
		return ""
	}
	return string(*v)
}
