package api

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strings"

	"github.com/eosc-siesta/siestad/internal/api/gen"
)

// pager cuts lists into pages. A cursor is the key of the last item looked at, sealed for the caller, the operation and the
// filter: it opens no other list, nobody can make one up, and it does not tell what the caller may not see.
type pager struct {
	cursors cipher.AEAD
	scope   []byte
	limit   int
}

func newCursors(key []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, key, nil, "siestad/cursor/v2", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (s *Server) pager(ctx context.Context, limit *gen.Limit, operation string, filter ...string) pager {
	p := pager{cursors: s.cursors, limit: 50}
	for _, part := range append([]string{callOf(ctx).who.Subject, operation}, filter...) {
		p.scope = append(binary.BigEndian.AppendUint64(p.scope, uint64(len(part))), part...)
	}
	if limit != nil {
		p.limit = *limit
	}
	return p
}

func (p pager) seal(position string) *string {
	c := base64.RawURLEncoding.EncodeToString(p.cursors.Seal(nil, nil, []byte(position), p.scope)) //nolint:gosec // it draws its nonces itself
	return &c
}

// after returns where the page starts, "" for the first.
func (p pager) after(cursor *gen.Cursor) (string, error) {
	if cursor == nil || *cursor == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(*cursor)
	if err != nil {
		return "", kindCursor.because("The cursor is not one of this service.")
	}
	position, err := p.cursors.Open(nil, nil, raw, p.scope)
	if err != nil {
		return "", kindCursor.because("The cursor belongs to another list.")
	}
	return string(position), nil
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

// maxLooks is how many pages are read to fill one with what the caller may see.
const maxLooks = 10

// sift makes a page of a list of which the caller may see only some. It looks through so much and no more: a page may be
// short, even empty, and still have a next one.
func sift[T, V any](p pager, after string, read func(after string) ([]T, error), key func(T) string, shown func(T) (bool, error),
	view func(T) V,
) ([]V, *string, error) {
	var list []T
	for range maxLooks {
		seen, err := read(after)
		if err != nil {
			return nil, nil, err
		}
		for _, item := range seen {
			ok, err := shown(item)
			if err != nil {
				return nil, nil, err
			}
			if ok {
				list = append(list, item)
			}
			after = key(item)
		}
		if len(seen) <= p.limit || len(list) > p.limit {
			items, next := cut(p, list, key, view)
			return items, next, nil
		}
	}
	items, _ := cut(p, list, key, view)
	return items, p.seal(after), nil
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
