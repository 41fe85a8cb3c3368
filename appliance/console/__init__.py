"""The console: pages that say what is happening, where a study is, and why there is no result.

Start at `app.py` (which page is where, and who may open it), then `visit.py` (what stands before each page). It must
never show who a patient is unless somebody who may asks for it, and the asking is on record.
"""
