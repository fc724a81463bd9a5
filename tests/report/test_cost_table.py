"""What a run has cost, and how much padding it read, as a table."""

from kdkit.report.tables import cost_table


def test_costs_are_listed_by_item_with_a_dash_where_nobody_noted_them():
    costs = [
        {"item": "teacher, trained here", "seconds": None, "tokens": None, "part_of": ""},
        {"item": "student", "seconds": 2.25, "tokens": 1234, "part_of": ""},
        {"item": "router's steps", "seconds": 1.0, "tokens": 99, "part_of": "student"},
    ]
    assert cost_table({"costs": costs})[1] == [
        ["teacher, trained here", "-", "-"],
        ["student (distilled)", "2.2", "1,234"],
        ["in it: router's steps", "1.0", "99"],
    ]
    assert cost_table({})[1] == []
    costs[1] |= {"padding_share": 0.104, "padding_share_ungrouped": 0.463}
    headings, rows = cost_table({"costs": costs})
    assert headings[3:] == ["padding beside them"]
    assert [row[3] for row in rows] == ["-", "10% (in micro-batches of one size 46%)", "-"]
    costs[1] |= {"padding_share_ungrouped": 0.104}
    assert cost_table({"costs": costs})[1][1][3] == "10%"
    costs[1]["padding_share"] = 0.004
    assert cost_table({"costs": costs})[0] == ["item", "seconds", "tokens read"], "packed text has next to none"
