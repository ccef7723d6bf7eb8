package cloudsim

import (
	"cmp"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
)

type img struct {
	ID, Name, Project, Status, Hash string
	Container, Disk                 string
	Size                            int64
	Created                         time.Time
	seq                             int64
}

const maxImage = 1 << 30

func (c *Cloud) imageFile(id string) string { return filepath.Join(c.cfg.Dir, "images", id) }

// page is Glance's kind of error: a small HTML page.
func page(status int, message string) reply {
	return reply{
		status: status, header: map[string]string{"Content-Type": "text/html; charset=UTF-8"},
		raw: []byte(fmt.Sprintf("<html>\n <head>\n  <title>%d %s</title>\n </head>\n <body>\n  <h1>%d %s</h1>\n  %s<br /><br />\n </body>\n</html>",
			status, http.StatusText(status), status, http.StatusText(status), message)),
	}
}

func (c *Cloud) glance(in *call, path []string) reply {
	if len(path) == 0 || path[0] != "images" {
		return page(404, "The resource could not be found.")
	}
	if len(path) == 1 {
		switch in.r.Method {
		case "GET":
			return c.listImages(in)
		case "POST":
			return c.createImage(in)
		}
		return page(405, "")
	}
	i := c.images[path[1]]
	if i == nil || i.Project != in.project() {
		return page(404, "No image found with ID "+path[1])
	}
	switch in.r.Method {
	case "GET":
		return reply{status: 200, body: showImage(i)}
	case "DELETE":
		delete(c.images, i.ID)
		c.buried[i.ID] = true
		_ = os.Remove(c.imageFile(i.ID))
		return reply{status: 204}
	}
	return page(405, "")
}

func showImage(i *img) map[string]any {
	out := map[string]any{
		"id": i.ID, "name": i.Name, "status": i.Status, "owner": i.Project, "visibility": "private", "protected": false, "tags": []string{},
		"container_format": i.Container, "disk_format": i.Disk, "size": nil, "checksum": nil, "os_hash_algo": nil, "os_hash_value": nil,
		"created_at": i.Created.Format("2006-01-02T15:04:05Z"), "self": "/v2/images/" + i.ID, "schema": "/v2/schemas/image",
	}
	if i.Status == "active" {
		out["size"], out["os_hash_algo"], out["os_hash_value"] = i.Size, "sha512", i.Hash
	}
	return out
}

func (c *Cloud) listImages(in *call) reply {
	q := in.r.URL.Query()
	var all []*img
	for _, i := range c.images {
		if i.Project == in.project() && (!q.Has("name") || q.Get("name") == i.Name) && (!q.Has("owner") || q.Get("owner") == i.Project) {
			all = append(all, i)
		}
	}
	slices.SortFunc(all, func(a, b *img) int { return cmp.Compare(b.seq, a.seq) })
	out := []any{}
	for _, i := range paged(in, all, func(i *img) string { return i.ID }, 1000) {
		out = append(out, showImage(i))
	}
	return reply{status: 200, body: map[string]any{"images": out, "schema": "/v2/schemas/images", "first": "/v2/images"}}
}

func (c *Cloud) createImage(in *call) reply {
	var req struct {
		ID        string `json:"id"`
		Name      string `json:"name"`
		Container string `json:"container_format"`
		Disk      string `json:"disk_format"`
	}
	if !in.json(&req) {
		return page(400, "Malformed JSON in request body.")
	}
	if req.ID == "" {
		req.ID = newID()
	}
	if _, err := uuid.Parse(req.ID); err != nil {
		return page(400, "Invalid image id format")
	}
	if !slices.Contains([]string{"", "aki", "ari", "ami", "bare"}, req.Container) || !slices.Contains([]string{"", "aki", "ari", "ami", "raw", "qcow2"}, req.Disk) {
		return page(400, "Provided object does not match schema 'image'")
	}
	mine := 0
	for _, i := range c.images {
		if i.Project == in.project() {
			mine++
		}
	}
	if mine >= limit(c.cfg.Quotas.Images, 10000) {
		return page(413, "The request returned a 413 Request Entity Too Large: image quota reached.")
	}
	if c.images[req.ID] != nil || c.buried[req.ID] {
		return page(409, "Image ID "+req.ID+" already exists!")
	}
	i := &img{ID: req.ID, Name: req.Name, Project: in.project(), Status: "queued", Container: req.Container, Disk: req.Disk}
	i.Created, i.seq = c.tick()
	c.images[i.ID] = i
	c.created["image"]++
	return reply{status: 201, header: map[string]string{"Location": in.base + "/image/v2/images/" + i.ID}, body: showImage(i)}
}

// upload takes an image's bytes. It holds the lock only at both ends; in between the image is "saving".
func (c *Cloud) upload(id string, r *http.Request) reply {
	c.mu.Lock()
	tok := c.tokens[r.Header.Get("X-Auth-Token")]
	i := c.images[id]
	var refused *reply
	switch {
	case tok == nil:
		refused = &reply{status: 401, body: keystoneError(401, "Unauthorized", "The request you have made requires authentication.")}
	case i == nil || i.Project != tok.cred.ProjectID:
		p := page(404, "No image found with ID "+id)
		refused = &p
	case r.Header.Get("Content-Type") != "application/octet-stream":
		p := page(415, "")
		refused = &p
	case i.Status != "queued":
		p := page(409, "Image status transition from "+i.Status+" to saving is not allowed")
		refused = &p
	default:
		i.Status = "saving"
	}
	c.mu.Unlock()
	if refused != nil {
		return *refused
	}
	size, hash, err := c.store(id, r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		i.Status = "queued" // a broken upload can be sent again
		return page(400, "Error uploading the image")
	}
	i.Status, i.Size, i.Hash = "active", size, hash
	return reply{status: 204}
}

func (c *Cloud) store(id string, body io.Reader) (size int64, hash string, err error) {
	f, err := os.Create(c.imageFile(id))
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha512.New()
	size, err = io.Copy(io.MultiWriter(f, h), io.LimitReader(body, maxImage))
	return size, hex.EncodeToString(h.Sum(nil)), err
}
