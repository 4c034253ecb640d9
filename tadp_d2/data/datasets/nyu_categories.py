"""The rooms of NYU Depth V2 and the unit of its depth maps; nothing is registered here."""

# The kinds of rooms, in the order of VPD's embeddings.
ROOMS = (
    *("printer room", "bathroom", "living room", "study", "conference room", "study room"),
    *("kitchen", "home office", "bedroom", "dinette", "playroom", "indoor balcony"),
    # The data set's own spelling.
    *("laundry room", "basement", "excercise room", "foyer", "home storage", "cafe"),
    *("furniture store", "office kitchen", "student lounge", "dining room", "reception room"),
    *("computer lab", "classroom", "office", "bookstore"),
)
# Meters of a depth map's value 1.
UNIT = 0.001
