package cloudsim

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

type vol struct {
	ID, Name, Project, Status, Type string
	Size                            int
	Bootable                        bool
	MultiAttach, Encrypted          bool
	Metadata, Image                 map[string]string
	Server                          string // that holds it
	Created                         time.Time
	seq                             int64
}

func (c *Cloud) volumeFile(id string) string { return filepath.Join(c.cfg.Dir, "volumes", id+".raw") }

func cinderMissing(id string) reply {
	return reply{status: 404, body: failure("itemNotFound", 404, fmt.Sprintf("Volume %s could not be found.", id))}
}

func cinderBad(message string) reply {
	return reply{status: 400, body: failure("badRequest", 400, message)}
}

func (c *Cloud) cinder(in *call, path []string) reply {
	if len(path) == 0 {
		return reply{status: 404, body: failure("itemNotFound", 404, "The resource could not be found.")}
	}
	switch m := in.r.Method; {
	case path[0] == "volumes" && len(path) == 1 && m == "POST":
		return c.createVolume(in)
	case path[0] == "volumes" && m == "GET" && (len(path) == 1 || path[1] == "detail"):
		return c.listVolumes(in)
	case path[0] == "volumes" && len(path) >= 2:
		v := c.volumes[path[1]]
		if v == nil || v.Project != in.project() {
			return cinderMissing(path[1])
		}
		switch {
		case len(path) == 2 && m == "GET":
			return reply{status: 200, body: map[string]any{"volume": showVolume(v)}}
		case len(path) == 2 && m == "DELETE":
			return c.deleteVolume(v)
		case len(path) == 3 && path[2] == "action" && m == "POST":
			return c.volumeAction(in, v)
		}
	case path[0] == "snapshots" && m == "GET":
		return reply{status: 200, body: map[string]any{"snapshots": []any{}}}
	case path[0] == "types" && m == "GET":
		return c.volumeTypes(path[1:])
	case path[0] == "limits" && m == "GET":
		n, gib := c.volumeUse(in.project())
		return reply{status: 200, body: map[string]any{"limits": map[string]any{"rate": []any{}, "absolute": map[string]any{
			"maxTotalVolumes": limit(c.cfg.Quotas.Volumes, 1000), "totalVolumesUsed": n,
			"maxTotalVolumeGigabytes": limit(c.cfg.Quotas.VolumeGiB, 100000), "totalGigabytesUsed": gib,
		}}}}
	}
	return reply{status: 404, body: failure("itemNotFound", 404, "The resource could not be found.")}
}

func (c *Cloud) volumeUse(project string) (n, gib int) {
	for _, v := range c.volumes {
		if v.Project == project {
			n++
			gib += v.Size
		}
	}
	return n, gib
}

func showVolume(v *vol) map[string]any {
	attachments := []any{}
	if v.Server != "" && v.Status == "in-use" {
		attachments = append(attachments, map[string]any{"server_id": v.Server, "volume_id": v.ID, "id": v.ID})
	}
	out := map[string]any{
		"id": v.ID, "name": v.Name, "status": v.Status, "size": v.Size, "volume_type": v.Type, "bootable": fmt.Sprint(v.Bootable),
		"multiattach": v.MultiAttach, "encrypted": v.Encrypted, "metadata": v.Metadata, "attachments": attachments,
		"created_at": v.Created.Format("2006-01-02T15:04:05.000000"), "os-vol-tenant-attr:tenant_id": v.Project,
	}
	if len(v.Image) > 0 {
		out["volume_image_metadata"] = v.Image
	}
	return out
}

func (c *Cloud) listVolumes(in *call) reply {
	q := in.r.URL.Query()
	var all []*vol
	for _, v := range c.volumes {
		if v.Project == in.project() && (!q.Has("name") || q.Get("name") == v.Name) && (!q.Has("status") || q.Get("status") == v.Status) {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b *vol) int { return cmp.Compare(b.seq, a.seq) })
	out := []any{}
	for _, v := range paged(in, all, func(v *vol) string { return v.ID }, 1000) {
		out = append(out, showVolume(v))
	}
	return reply{status: 200, body: map[string]any{"volumes": out}}
}

func (c *Cloud) createVolume(in *call) reply {
	var req struct {
		Volume struct {
			Name     string            `json:"name"`
			Size     int               `json:"size"`
			Type     string            `json:"volume_type"`
			Metadata map[string]string `json:"metadata"`
		} `json:"volume"`
	}
	if !in.json(&req) {
		return cinderBad("Invalid input received")
	}
	q := req.Volume
	if q.Size < 1 {
		return cinderBad(fmt.Sprintf("Invalid input for field/attribute size. Value: %d. %d is less than the minimum of 1", q.Size, q.Size))
	}
	for k, v := range q.Metadata {
		if len(k) > 255 || len(v) > 255 {
			return cinderBad("Invalid input for field/attribute metadata.")
		}
	}
	typ := c.cfg.VolumeTypes[0]
	if q.Type != "" {
		i := slices.IndexFunc(c.cfg.VolumeTypes, func(t VolumeType) bool { return t.Name == q.Type || t.ID == q.Type })
		if i < 0 {
			return reply{status: 404, body: failure("itemNotFound", 404, fmt.Sprintf("Volume type with name %s could not be found.", q.Type))}
		}
		typ = c.cfg.VolumeTypes[i]
	}
	over := func(message string) reply {
		return reply{status: 413, header: map[string]string{"Retry-After": "0"}, body: map[string]any{"overLimit": map[string]any{"code": 413, "message": message, "retryAfter": "0"}}}
	}
	n, gib := c.volumeUse(in.project())
	if most := limit(c.cfg.Quotas.Volumes, 1000); n >= most {
		return over(fmt.Sprintf("VolumeLimitExceeded: Maximum number of volumes allowed (%d) exceeded for quota 'volumes'.", most))
	}
	if most := limit(c.cfg.Quotas.VolumeGiB, 100000); gib+q.Size > most {
		return over(fmt.Sprintf("VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota. Requested %dG, quota is %dG and %dG has been consumed.", q.Size, most, gib))
	}
	v := &vol{
		ID: newID(), Name: q.Name, Project: in.project(), Status: "creating", Type: typ.Name, Size: q.Size, MultiAttach: typ.MultiAttach, Encrypted: typ.Encrypted,
		Metadata: q.Metadata, Image: map[string]string{},
	}
	if v.Metadata == nil {
		v.Metadata = map[string]string{}
	}
	v.Created, v.seq = c.tick()
	c.volumes[v.ID] = v
	c.created["volume"]++
	c.after(c.cfg.Latency.Volume, func() {
		if v.Status != "creating" {
			return
		}
		v.Status = "available"
		if err := c.sparse(v); err != nil {
			v.Status = "error"
		}
	})
	return reply{status: 202, body: map[string]any{"volume": showVolume(v)}}
}

// sparse makes the volume's file: all holes.
func (c *Cloud) sparse(v *vol) error {
	f, err := os.OpenFile(c.volumeFile(v.ID), os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(int64(v.Size) << 30)
}

func (c *Cloud) deleteVolume(v *vol) reply {
	if v.Status != "available" && v.Status != "error" {
		return cinderBad("Invalid volume: Volume status must be available or error or error_restoring or error_extending or error_managing and must not be migrating, attached, " +
			"belong to a group, have snapshots, awaiting a transfer, or be disassociated from snapshots after volume transfer.")
	}
	v.Status = "deleting"
	c.after(c.cfg.Latency.Delete, func() {
		_ = os.Remove(c.volumeFile(v.ID))
		delete(c.volumes, v.ID)
	})
	return reply{status: 202}
}

func (c *Cloud) volumeAction(in *call, v *vol) reply {
	var req struct {
		Bootable *struct {
			Bootable bool `json:"bootable"`
		} `json:"os-set_bootable"`
		Set *struct {
			Metadata map[string]string `json:"metadata"`
		} `json:"os-set_image_metadata"`
		Unset *struct {
			Key string `json:"key"`
		} `json:"os-unset_image_metadata"`
	}
	if !in.json(&req) {
		return cinderBad("Malformed request body")
	}
	switch {
	case req.Bootable != nil:
		v.Bootable = req.Bootable.Bootable
		return reply{status: 200}
	case req.Set != nil:
		for k, x := range req.Set.Metadata {
			if k == "" || len(k) > 255 || len(x) > 255 {
				return cinderBad("Invalid input for field/attribute metadata.")
			}
		}
		maps.Copy(v.Image, req.Set.Metadata) // added to what is there, not instead of it
		return reply{status: 200, body: map[string]any{"metadata": v.Image}}
	case req.Unset != nil:
		if _, there := v.Image[req.Unset.Key]; !there {
			return reply{status: 404, body: failure("itemNotFound", 404, "Metadata item was not found")}
		}
		delete(v.Image, req.Unset.Key)
		return reply{status: 200}
	}
	return cinderBad("There is no such action")
}

func (c *Cloud) volumeTypes(path []string) reply {
	show := func(t VolumeType) map[string]any {
		specs := map[string]string{}
		if t.MultiAttach {
			specs["multiattach"] = "<is> True"
		}
		return map[string]any{"id": t.ID, "name": t.Name, "is_public": true, "extra_specs": specs}
	}
	if len(path) == 0 {
		out := []any{}
		for _, t := range c.cfg.VolumeTypes {
			out = append(out, show(t))
		}
		return reply{status: 200, body: map[string]any{"volume_types": out}}
	}
	if len(path) == 2 && path[1] == "encryption" {
		return reply{status: 403, body: failure("forbidden", 403, "Policy doesn't allow volume_extension:volume_type_encryption:get to be performed.")}
	}
	for i, t := range c.cfg.VolumeTypes {
		if t.ID == path[0] || path[0] == "default" && i == 0 {
			return reply{status: 200, body: map[string]any{"volume_type": show(t)}}
		}
	}
	return reply{status: 404, body: failure("itemNotFound", 404, "Volume type "+path[0]+" could not be found.")}
}
