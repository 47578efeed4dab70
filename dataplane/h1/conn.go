package h1

import (
	"os"

	"github.com/headgate/headgate/dataplane/link"
)

// conn is what both sides embed.
type conn = link.Link

var errTimeout = os.ErrDeadlineExceeded
