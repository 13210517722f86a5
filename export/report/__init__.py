"""The export report: `findings` is what was found, `plots` draws it, `page` lays it out."""
