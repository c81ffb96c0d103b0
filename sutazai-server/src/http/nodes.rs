//! The processes that share the store.

use axum::{extract::State, http::StatusCode};

use super::{
    cursor,
    problem::ProblemView,
    query::{PageQuery, Query},
    reply::{Reply, json},
    state::AppState,
    views::{NodeList, NodeView},
};

/// List nodes
///
/// The processes that share the store, by id. One whose lease has lapsed stays `dead` until others have taken over what it held.
#[utoipa::path(
    get, path = "/api/v1/nodes", tag = "operators", operation_id = "list_nodes",
    params(PageQuery),
    responses(
        (status = 200, description = "A page", body = NodeList<'static>),
        (status = 422, description = "A parameter is wrong", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(State(state): State<AppState>, Query(query): Query<PageQuery>) -> Reply {
    let after = query.cursor.as_deref().map(cursor::name).transpose()?;
    let mut nodes = state.orchestrator().nodes().await?;
    if let Some(after) = after {
        nodes.retain(|node| node.id.as_str() > &*after);
    }
    let limit = query.limit.0;
    let next_cursor = (nodes.len() > limit).then(|| cursor::of_name(nodes[limit - 1].id.as_str()));
    nodes.truncate(limit);
    let items = nodes.iter().map(NodeView::from).collect();
    json(StatusCode::OK, &NodeList { items, next_cursor }, nodes.len() * 256)
}
