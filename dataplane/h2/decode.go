package h2

import (
	"golang.org/x/net/http2/hpack"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/section"
)

// decoder decodes the field blocks of one connection, one at a time.
//
// For each block call begin, add for the fragment in each frame, and end.
type decoder struct {
	section.Reader
	hp           *hpack.Decoder // nil until the first block
	wire, pieces int            // bytes and frames of the block
}

const (
	// bombFactor is by how much a block may exceed the list that is taken
	// before the peer is taken for an attacker.
	bombFactor = 4
	// maxContinuations is how many frames a block may come in beyond the
	// fullest possible ones.
	maxContinuations = 8
)

// begin starts a block whose fields are appended to fields. Strings that must
// be made are made in arena.
func (d *decoder) begin(kind section.Kind, fields *exchange.Fields, arena *exchange.Arena) {
	if d.hp == nil {
		d.hp = hpack.NewDecoder(4096, d.emit)
		// Not to be reached before the bounds of the whole block are.
		d.hp.SetMaxStringLength(bombFactor * d.MaxBytes)
	}
	d.Begin(kind, fields, arena)
	d.wire, d.pieces = 0, 0
}

// add decodes the next fragment. Its errors are the connection's: the state of
// the compression is lost.
func (d *decoder) add(fragment []byte) *connError {
	d.pieces++
	d.wire += len(fragment)
	if d.pieces > maxContinuations+d.wire/(minFrameSize/2) {
		return errContinuations
	}
	if d.wire > 2*d.MaxBytes {
		return errHeaderFlood
	}
	if _, err := d.hp.Write(fragment); err != nil {
		if err == hpack.ErrStringLength {
			return errHeaderFlood
		}
		return errCompression
	}
	if d.Size > bombFactor*d.MaxBytes {
		return errHeaderBomb
	}
	return nil
}

// end completes the block.
func (d *decoder) end() *connError {
	if err := d.hp.Close(); err != nil {
		return errCompression
	}
	d.hp.SetEmitEnabled(true)
	d.End()
	return nil
}

// emit takes a decoded field.
func (d *decoder) emit(f hpack.HeaderField) {
	d.Add(f.Name, f.Value)
	if d.Size > bombFactor*d.MaxBytes {
		d.hp.SetEmitEnabled(false) // the connection ends with this block
	}
}
